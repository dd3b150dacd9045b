-- a batch of: name, stream, committed, latest
local field = fields(ARGV[2])
local name = field()
while name do
  local box = key('box', name)
  local old = redis.call('HMGET', box, 'marks', 'owner')
  redis.call('HSET', box, 'marks', raise(old[1], field(), field(), field()))
  if not old[2] then
    stray(name)
  end
  name = field()
end
return 1
