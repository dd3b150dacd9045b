-- name
local name = ARGV[2]
local mail = key('mail', name)
local box = redis.call('HMGET', key('box', name), 'owner', 'epoch', 'connected', 'seen', 'protocol', 'peer', 'since',
  'listening', 'marks', 'mqtt')
local events = redis.call('LRANGE', key('events', name), 0, -1)
local fingerprints = redis.call('LLEN', key('fingerprints', name))
if not (box[1] or box[9]) and #events == 0 and fingerprints == 0
  and redis.call('EXISTS', mail, key('finished', name)) == 0 then
  return ''
end
local answer = {}
for place = 1, 10 do
  answer[place] = box[place] or ''
end
answer[11] = box[1] and redis.call('ZSCORE', prefix .. 'alive', box[1]) and '1' or '0'
answer[12] = digits(fingerprints)
local live = redis.call('HMGET', mail, 'live', 'bytes')
answer[13], answer[14], answer[15] = live[1] or '0', live[2] or '0', '0'
local first = redis.call('ZRANGE', key('queue', name), 0, 0)[1]
local state = first and find(name, first)
if state then
  answer[15] = state[QUEUED]
end
return table.concat(answer, '\n') .. '\n' .. table.concat(events, '\n')
