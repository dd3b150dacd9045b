-- now, limit
local nowText, limit = ARGV[2], ARGV[3]
local now = tonumber(nowText)
local answers = {}

local function look(member)
  local sequence, name = string.match(member, '^(%d+) (.*)$')
  local state, body, live, bytes = find(name, sequence)
  if not state then
    -- Its mailbox was deleted by hand.
    redis.call('ZREM', prefix .. 'due', member)
    return ''
  end
  if state[FINAL] ~= NONE then
    dueAt(name, sequence, now + RETRY_MS)
  elseif tonumber(state[EXPIRES]) <= now then
    choose(name, sequence, state, live, bytes, 'expired', NONE, nowText, now + RETRY_MS)
  else
    choose(name, sequence, state, live, bytes, 'refused', 'BOX_AWAY', nowText, now + RETRY_MS)
  end
  return name .. '\n' .. entry(sequence, state, body)
end

for _, member in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'due', '-inf', nowText, 'LIMIT', 0, limit)) do
  answers[#answers + 1] = look(member)
end
return table.concat(answers)
