-- instance, incarnation, the number wanted or nothing, how many numbers there are, ms after which one can be another's
local instance, incarnation, wanted, numbers, lapsed = unpack(ARGV, 2)
local now = clock()

-- The number of the instance that was not heard of for longest, if that is long enough.
local function lapsedNumber()
  local oldest = redis.call('ZRANGE', prefix .. 'lived', 0, 0, 'WITHSCORES')
  if not oldest[1] or now - oldest[2] < tonumber(lapsed) then
    return nil
  end
  local number = redis.call('HGET', prefix .. 'workers', oldest[1])
  local last = redis.call('HGET', prefix .. 'incarnations', oldest[1])
  if last then
    redis.call('ZREM', prefix .. 'alive', last)
  end
  redis.call('ZREM', prefix .. 'lived', oldest[1])
  redis.call('HDEL', prefix .. 'workers', oldest[1])
  redis.call('HDEL', prefix .. 'incarnations', oldest[1])
  return number
end

local number = redis.call('HGET', prefix .. 'workers', instance)
if not number then
  local taken = {}
  for _, one in ipairs(redis.call('HVALS', prefix .. 'workers')) do
    taken[one] = true
  end
  if wanted ~= '' and not taken[wanted] then
    number = wanted
  else
    for one = 0, numbers - 1 do
      if not taken[digits(one)] then
        number = digits(one)
        break
      end
    end
  end
  number = number or lapsedNumber()
  if not number then
    return ''
  end
  redis.call('HSET', prefix .. 'workers', instance, number)
end
local last = redis.call('HGET', prefix .. 'incarnations', instance)
if last and last ~= incarnation then
  redis.call('ZREM', prefix .. 'alive', last)
end
redis.call('HSET', prefix .. 'incarnations', instance, incarnation)
redis.call('ZADD', prefix .. 'alive', digits(now), incarnation)
redis.call('ZADD', prefix .. 'lived', digits(now), instance)
redis.call('ZREM', prefix .. 'declared', incarnation)
return number
