-- the dead incarnation, the one that adopts, now, now as an epoch, limit, attempt, ms for which an attempt can come again
local dead, incarnation, now, epoch, limit, attempt, remembered = unpack(ARGV, 2)
local taken = key('adopted', attempt)
local orphans = {}

local function orphan(name, new, lost, protocol, peer, previous)
  if not previous or previous == '' then
    previous = '\n\n\n'
  end
  orphans[#orphans + 1] = table.concat({name, new, lost, protocol, peer, previous}, '\n') .. '\n'
end

-- What this attempt took before, and nobody has had since.
for _, name in ipairs(redis.call('SMEMBERS', taken)) do
  local old = redis.call('HMGET', key('box', name), 'owner', 'adopted', 'epoch', 'lost', 'protocol', 'peer', 'previous')
  if old[1] == incarnation and old[2] == attempt then
    orphan(name, old[3], old[4], old[5], old[6], old[7])
  end
end
if #orphans > 0 or redis.call('ZSCORE', prefix .. 'alive', dead) then
  return table.concat(orphans)
end
for _, name in ipairs(redis.call('SRANDMEMBER', key('held', dead), limit)) do
  local box = key('box', name)
  local old = redis.call('HMGET', box, 'owner', 'epoch', 'protocol', 'peer', 'previous', 'adopted')
  if old[1] == dead then
    local new = digits(math.max(old[2] + 1, tonumber(epoch)))
    own(name, dead, old[6], incarnation, new, old[3], old[4], now, '0')
    redis.call('HSET', box, 'adopted', attempt, 'lost', old[2])
    if old[5] then
      -- The next to adopt it may have to tell, too.
      redis.call('HSET', box, 'previous', old[5])
    end
    redis.call('SADD', taken, name)
    orphan(name, new, old[2], old[3], old[4], old[5])
  else
    -- Its session was deleted by hand.
    redis.call('SREM', key('held', dead), name)
    if not old[1] then
      redis.call('SREM', key('linked', (parts(name))), name)
    end
  end
end
if #orphans > 0 then
  redis.call('PEXPIRE', taken, remembered)
end
return table.concat(orphans)
