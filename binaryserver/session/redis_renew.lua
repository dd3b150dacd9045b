-- instance, incarnation
local instance, incarnation = unpack(ARGV, 2)
local now = clock()
if redis.call('ZSCORE', prefix .. 'alive', incarnation) then
  redis.call('ZADD', prefix .. 'alive', digits(now), incarnation)
  redis.call('ZADD', prefix .. 'lived', digits(now), instance)
  return 'renewed'
end
local last = redis.call('HGET', prefix .. 'incarnations', instance)
if last and last ~= incarnation then
  return 'superseded'
end
if last or redis.call('ZSCORE', prefix .. 'declared', incarnation) then
  return 'declaredDead'
end
return 'unknown'
