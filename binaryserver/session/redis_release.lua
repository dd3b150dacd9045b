-- name, epoch, now
local name, epoch, now = unpack(ARGV, 2)
local box = key('box', name)
local old = redis.call('HMGET', box, 'epoch', 'owner')
if old[1] ~= epoch then
  return 0
end
redis.call('HSET', box, 'connected', '0', 'listening', '0', 'seen', now)
redis.call('HDEL', box, 'adopted', 'lost')
redis.call('SREM', key('held', old[2]), name)
return 1
