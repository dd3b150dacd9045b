-- how many strangers are remembered; a batch of: name, whether it is a box to the directory, at, epoch, peer, instance, rest
local most, field = tonumber(ARGV[2]), fields(ARGV[3])
local strangers = prefix .. 'strangers'
local name = field()
while name do
  local isBox, at = field() == '1', field()
  if isBox then
    stray(name)
    redis.call('ZREM', strangers, name)
  elseif redis.call('HEXISTS', key('box', name), 'owner') == 0
    and (redis.call('EXISTS', key('events', name)) == 0 or redis.call('ZSCORE', strangers, name)) then
    redis.call('ZADD', strangers, at, name)
  end
  remember(name, at, field(), field(), field(), field())
  local account, asset = parts(name)
  redis.call('SADD', key('tried', asset), account)
  name = field()
end
for _, one in ipairs(redis.call('ZRANGE', strangers, 0, -most - 1)) do
  forget(one)
end
return 1
