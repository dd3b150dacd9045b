-- name, epoch, the MQTT session or nothing, listening
local name, epoch, mqtt, listening = unpack(ARGV, 2)
local box = key('box', name)
if redis.call('HGET', box, 'epoch') ~= epoch then
  return 0
end
redis.call('HSET', box, 'listening', listening)
if mqtt == '' then
  redis.call('HDEL', box, 'mqtt')
else
  redis.call('HSET', box, 'mqtt', mqtt)
end
return 1
