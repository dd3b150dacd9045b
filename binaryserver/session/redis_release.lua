-- name, epoch, now; of the event, if there is one: at, epoch, peer, instance, rest
local name, epoch, now = unpack(ARGV, 2, 4)
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
if ARGV[5] then
  remember(name, unpack(ARGV, 5))
end
return 1
