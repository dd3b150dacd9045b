-- name, epoch, now
local name, epoch, now = unpack(ARGV, 2)
local box = key('box', name)
local old = redis.call('HMGET', box, 'epoch', 'owner', 'adopted')
if old[1] ~= epoch or not old[2] then
  return 0
end
unadopt(name, old[3])
redis.call('HSET', box, 'connected', '0', 'listening', '0', 'seen', now)
redis.call('HDEL', box, 'adopted', 'lost')
redis.call('SREM', key('held', old[2]), name)
redis.call('SREM', key('linked', (parts(name))), name)
redis.call('ZADD', prefix .. 'seen', now, name)
return 1
