-- name, epoch, the MQTT session or nothing, listening
local name, epoch, mqtt, listening = unpack(ARGV, 2)
local box = key('box', name)
local old = redis.call('HMGET', box, 'epoch', 'owner')
if old[1] ~= epoch or not old[2] then
  return 0
end
redis.call('HSET', box, 'listening', listening)
if mqtt == '' then
  redis.call('HDEL', box, 'mqtt')
else
  redis.call('HSET', box, 'mqtt', mqtt)
end
return 1
