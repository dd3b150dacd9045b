-- before, limit
local before, limit = ARGV[2], tonumber(ARGV[3])
local PAGE = 100

local function hasMail(name)
  return redis.call('HLEN', key('mail', name)) > OWN_FIELDS or redis.call('EXISTS', key('finished', name)) == 1
end

for _, name in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'strangers', '-inf', '(' .. before)) do
  forget(name)
end
local gone, kept = 0, 0
local page
repeat
  page = redis.call('ZRANGEBYSCORE', prefix .. 'seen', '-inf', '(' .. before, 'LIMIT', kept, math.min(PAGE, limit - gone))
  for _, name in ipairs(page) do
    if hasMail(name) then
      kept = kept + 1
    else
      erase(name, tonumber(before))
      gone = gone + 1
    end
  end
until #page == 0 or gone >= limit
return gone
