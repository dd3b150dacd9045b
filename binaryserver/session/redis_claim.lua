-- name, account, asset, instance, incarnation, protocol, peer, now, now as an epoch, whether to forget the MQTT session,
-- attempt
local name, account, asset, instance, incarnation, protocol, peer, now, epoch, clean, attempt = unpack(ARGV, 2)
local is = standing(instance, incarnation)
if is == 'superseded' or is == 'declaredDead' then
  return is
end
local box = key('box', name)
local old = redis.call('HMGET', box, 'owner', 'epoch', 'connected', 'seen', 'marks', 'mqtt', 'attempt', 'previous')
local previous, claimed = old[8], old[2]
if old[7] ~= attempt then
  previous = old[1] and table.concat({old[1], old[2], old[3], old[4]}, '\n') or ''
  claimed = digits(math.max(old[2] and old[2] + 1 or 0, tonumber(epoch)))
  own(name, old[1], incarnation, claimed, protocol, peer, now, '0')
  redis.call('HSET', box, 'attempt', attempt, 'previous', previous)
  enlist(name, account, asset)
  if clean == '1' then
    redis.call('HDEL', box, 'mqtt')
    old[6] = false
  end
end
return table.concat({claimed, old[5] or '', old[6] or '', previous}, '\n')
