-- a batch of: name, id, at, attempts that it is bound to or 0, and the final status, its reason and time, or the sign for none
local field = fields(ARGV[2])

local function note(name, id, at, attempts, status, reason, finalAt)
  local sequence = redis.call('HGET', key('mail', name), 'i:' .. id)
  if not sequence then
    return '\n'
  end
  local state, body, live, bytes = find(name, sequence)
  if state[FINAL] ~= NONE or (attempts ~= '0' and attempts ~= state[ATTEMPTS]) then
    return '\n'
  end
  if status == NONE then
    if state[DELIVERED] ~= '0' then
      return '\n'
    end
    state[DELIVERED] = at
    if state[WANT_ACK] == '0' then
      status, reason, finalAt = 'acked', NONE, at
    end
  end
  if status == NONE then
    redis.call('HSET', key('mail', name), 's:' .. sequence, packState(state))
    redis.call('ZREM', key('queue', name), sequence)
  else
    choose(name, sequence, state, live, bytes, status, reason, finalAt, finalAt + RETRY_MS)
  end
  return entry(sequence, state, body)
end

local answers = {}
local name = field()
while name do
  answers[#answers + 1] = note(name, field(), field(), field(), field(), field(), field())
  name = field()
end
return table.concat(answers)
