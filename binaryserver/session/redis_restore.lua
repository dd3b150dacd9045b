-- incarnation; a batch of: name, epoch, protocol, peer, since, listening, mqtt, how many marks, and of each stream, committed
-- and latest
local incarnation, field = ARGV[2], fields(ARGV[3])
local restored = {}
local name = field()
while name do
  local epoch, protocol, peer = field(), field(), field()
  local since, listening, mqtt, count = field(), field(), field(), tonumber(field())
  local box = key('box', name)
  local old = redis.call('HMGET', box, 'owner', 'epoch', 'marks', 'adopted')
  local marks = old[3]
  for _ = 1, count do
    marks = raise(marks, field(), field(), field())
  end
  if count > 0 then
    redis.call('HSET', box, 'marks', marks)
  end
  local isLatest = not old[2] or tonumber(old[2]) < tonumber(epoch) or old[1] == incarnation and old[2] == epoch
  if isLatest then
    own(name, old[1], old[4], incarnation, epoch, protocol, peer, since, listening)
    enlist(name)
    if mqtt == '' then
      redis.call('HDEL', box, 'mqtt')
    else
      redis.call('HSET', box, 'mqtt', mqtt)
    end
  end
  restored[#restored + 1] = isLatest and '1' or '0'
  name = field()
end
return table.concat(restored)
