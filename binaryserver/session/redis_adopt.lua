-- the dead incarnation, the one that adopts, now, now as an epoch, limit
local dead, incarnation, now, epoch, limit = unpack(ARGV, 2)
local orphans = {}
if redis.call('ZSCORE', prefix .. 'alive', dead) then
  return ''
end
for _, name in ipairs(redis.call('SRANDMEMBER', key('held', dead), limit)) do
  local old = redis.call('HMGET', key('box', name), 'owner', 'epoch', 'protocol', 'peer')
  if old[1] == dead then
    local new = digits(math.max(old[2] + 1, tonumber(epoch)))
    own(name, dead, incarnation, new, old[3], old[4], now, '0')
    orphans[#orphans + 1] = table.concat({name, new, old[2], old[3], old[4]}, '\n') .. '\n'
  else
    -- Its session was erased.
    redis.call('SREM', key('held', dead), name)
  end
end
return table.concat(orphans)
