-- now, messages and bytes that a mailbox holds at most; a batch of: name, id, noQueue, wantAck, queued, expires, size, why it is
-- rejected or the sign for no reason, head, payload
local now, most, mostBytes, field = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), fields(ARGV[5])
local alive = {}

local function isAlive(incarnation)
  if alive[incarnation] == nil then
    alive[incarnation] = redis.call('ZSCORE', prefix .. 'alive', incarnation) and true or false
  end
  return alive[incarnation]
end

local function put(name, id, noQueue, wantAck, queued, expires, size, rejected, head, payload)
  local mail, finished = key('mail', name), key('finished', name)
  local box = redis.call('HMGET', key('box', name), 'owner', 'connected', 'listening', 'epoch')
  local listener = box[1] and box[2] == '1' and box[3] == '1' and isAlive(box[1]) and box[1] or ''
  local found = redis.call('HMGET', mail, 'i:' .. id, 'last', 'live', 'bytes')
  if found[1] then
    local state, body = find(name, found[1])
    return listener, 'known', entry(found[1], state, body)
  end
  redis.call('ZREMRANGEBYSCORE', finished, '-inf', digits(now))
  if redis.call('ZSCORE', finished, id) then
    return listener, 'finished', '\n'
  end
  local live, bytes = tonumber(found[3] or 0), tonumber(found[4] or 0)
  local state = {noQueue, wantAck, queued, expires, size, box[4] or NONE, '0', '0', '0', '0', NONE, NONE}
  local due = tonumber(expires)
  if rejected ~= NONE then
    state[FINAL], state[REASON] = 'rejected', rejected
  elseif tonumber(expires) <= now then
    state[FINAL] = 'expired'
  elseif noQueue == '1' and listener == '' then
    state[FINAL], state[REASON] = 'refused', 'BOX_AWAY'
  elseif live + 1 > most or bytes + size > mostBytes then
    state[FINAL], state[REASON] = 'refused', 'MAILBOX_FULL'
  elseif noQueue == '1' then
    due = math.min(due, queued + NO_QUEUE_MS)
  end
  local sequence = digits((found[2] or 0) + 1)
  if state[FINAL] == NONE then
    live, bytes = live + 1, bytes + size
    redis.call('ZADD', key('queue', name), sequence, sequence)
  else
    state[FINAL_AT], due, payload = digits(now), now + RETRY_MS, ''
  end
  local text = packState(state)
  redis.call('HSET', mail, 'last', sequence, 'live', digits(live), 'bytes', digits(bytes), 'i:' .. id, sequence,
    's:' .. sequence, text, 'b:' .. sequence, head .. '\t' .. payload)
  dueAt(name, sequence, due)
  if not box[1] then
    redis.call('PERSIST', mail)
  end
  return listener, 'new', sequence .. ' ' .. text .. '\n'
end

local answers = {}
local name = field()
while name do
  local listener, what, text =
    put(name, field(), field(), field(), field(), field(), field(), field(), field(), field())
  answers[#answers + 1] = listener .. '\n' .. what .. '\n' .. text
  name = field()
end
return table.concat(answers)
