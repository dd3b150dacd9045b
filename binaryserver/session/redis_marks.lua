-- a batch of: name, stream, committed, latest
local field = fields(ARGV[2])
local name = field()
while name do
  local box = key('box', name)
  redis.call('HSET', box, 'marks', raise(redis.call('HGET', box, 'marks'), field(), field(), field()))
  name = field()
end
return 1
