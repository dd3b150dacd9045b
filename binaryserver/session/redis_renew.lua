-- instance, incarnation
local instance, incarnation = unpack(ARGV, 2)
local now = digits(clock())
local is = standing(instance, incarnation)
if is == 'renewed' then
  redis.call('ZADD', prefix .. 'alive', now, incarnation)
  redis.call('ZADD', prefix .. 'lived', now, instance)
end
return is
