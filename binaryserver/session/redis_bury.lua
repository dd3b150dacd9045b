-- ms of a lease, ms for which it is remembered who was declared dead
local lease, remembered = tonumber(ARGV[2]), tonumber(ARGV[3])
local now = clock()
for _, one in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'alive', '-inf', '(' .. digits(now - lease))) do
  redis.call('ZREM', prefix .. 'alive', one)
  redis.call('ZADD', prefix .. 'declared', digits(now), one)
end
redis.call('ZREMRANGEBYSCORE', prefix .. 'declared', '-inf', digits(now - remembered))
local dead = {}
for _, one in ipairs(redis.call('SMEMBERS', prefix .. 'owners')) do
  if not redis.call('ZSCORE', prefix .. 'alive', one) then
    if redis.call('EXISTS', key('held', one)) == 1 then
      dead[#dead + 1] = one .. '\n'
    else
      redis.call('SREM', prefix .. 'owners', one)
    end
  end
end
return table.concat(dead)
