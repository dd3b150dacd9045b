-- name, instance, incarnation, protocol, peer, now, now as an epoch, whether to forget the MQTT session, attempt, how many of the
-- account's boxes may be connected or 0; of the event that a connected one is taken over: peer, instance, rest
local name, instance, incarnation, protocol, peer, now, epoch, clean, attempt, most = unpack(ARGV, 2, 11)
local is = standing(instance, incarnation)
if is == 'superseded' or is == 'declaredDead' then
  return is
end
local box = key('box', name)
local old = redis.call('HMGET', box, 'owner', 'epoch', 'connected', 'seen', 'marks', 'mqtt', 'attempt', 'previous', 'adopted')
local previous, claimed = old[8], old[2]
if old[7] ~= attempt then
  if most ~= '0' and old[3] ~= '1' and redis.call('SCARD', key('linked', (parts(name)))) >= tonumber(most) then
    return 'full'
  end
  previous = old[1] and table.concat({old[1], old[2], old[3], old[4]}, '\n') or ''
  claimed = digits(math.max(old[2] and old[2] + 1 or 0, tonumber(epoch)))
  if old[3] == '1' then
    remember(name, now, claimed, unpack(ARGV, 12))
  end
  own(name, old[1], old[9], incarnation, claimed, protocol, peer, now, '0')
  redis.call('HSET', box, 'attempt', attempt, 'previous', previous)
  enlist(name)
  if clean == '1' then
    redis.call('HDEL', box, 'mqtt')
    old[6] = false
  end
end
return table.concat({claimed, old[5] or '', old[6] or '', previous}, '\n')
