-- now; a batch of: name, epoch, the last sequence given, limit
local nowText, field = ARGV[2], fields(ARGV[3])
local now = tonumber(nowText)
local PAGE = 100

local function isWanted(state, epoch)
  if not state or tonumber(state[EXPIRES]) <= now then
    return false
  end
  if state[NO_QUEUE] == '0' or state[ATTEMPTS] ~= '0' then
    return true
  end
  return state[EPOCH] == epoch and state[QUEUED] + NO_QUEUE_MS >= now
end

local function take(name, epoch, after, limit)
  local taken, offset = {}, 0
  while #taken < limit do
    local page = redis.call('ZRANGEBYSCORE', key('queue', name), '(' .. after, '+inf', 'LIMIT', offset, PAGE)
    for _, sequence in ipairs(page) do
      local state, body = find(name, sequence)
      if isWanted(state, epoch) then
        if state[NO_QUEUE] == '1' and state[ATTEMPTS] == '0' then
          dueAt(name, sequence, tonumber(state[EXPIRES]))
        end
        state[ATTEMPTS], state[SENT] = digits(state[ATTEMPTS] + 1), nowText
        redis.call('HSET', key('mail', name), 's:' .. sequence, packState(state))
        taken[#taken + 1] = entry(sequence, state, body)
        if #taken >= limit then
          break
        end
      end
    end
    if #page < PAGE then
      break
    end
    offset = offset + PAGE
  end
  return taken
end

local answers = {}
local name = field()
while name do
  local epoch, after, limit = field(), field(), tonumber(field())
  local box = redis.call('HMGET', key('box', name), 'epoch', 'owner')
  if box[1] == epoch and box[2] then
    local taken = take(name, epoch, after, limit)
    answers[#answers + 1] = #taken .. '\n' .. table.concat(taken)
  else
    answers[#answers + 1] = NONE .. '\n'
  end
  name = field()
end
return table.concat(answers)
