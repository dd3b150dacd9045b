-- Before every script of mailboxes. Of each box: "mail", a hash: the sequence given last; number and bytes of the entries
-- without a final status; and of each entry "i:" and its id -> sequence, "s:" and the sequence -> what changes, "b:" and the
-- sequence -> what does not (head, tab, payload); "queue", the sequences of what is to be sent; "finished", ids by the time
-- to forget them. Of all boxes: "due", "SEQUENCE NAME" by the time to look after it.

-- Times may have 64 bits; here it does not matter how far beyond this they are.
local NEVER = 9e15

-- The words of what changes.
local NO_QUEUE, WANT_ACK, QUEUED, EXPIRES, SIZE, EPOCH = 1, 2, 3, 4, 5, 6
local ATTEMPTS, SENT, DELIVERED, FINAL_AT, FINAL, REASON = 7, 8, 9, 10, 11, 12
local NONE = '-'

-- Fields of a mailbox that are no entry's.
local OWN_FIELDS = 3

local function unpackState(text)
  local state = {}
  for word in string.gmatch(text, '%S+') do
    state[#state + 1] = word
  end
  return state
end

local function packState(state)
  return table.concat(state, ' ')
end

local function dueAt(name, sequence, when)
  redis.call('ZADD', prefix .. 'due', digits(math.min(when, NEVER)), sequence .. ' ' .. name)
end

-- What stands of an entry: its state or nothing, its body, and number and bytes of the entries without a final status.
local function find(name, sequence)
  local found = redis.call('HMGET', key('mail', name), 's:' .. sequence, 'b:' .. sequence, 'live', 'bytes')
  return found[1] and unpackState(found[1]), found[2], found[3], found[4]
end

-- Choose the final status of an entry that has none.
local function choose(name, sequence, state, live, bytes, status, reason, at, due)
  state[FINAL_AT], state[FINAL], state[REASON] = at, status, reason
  redis.call('HSET', key('mail', name), 's:' .. sequence, packState(state),
    'live', digits(live - 1), 'bytes', digits(bytes - state[SIZE]))
  redis.call('ZREM', key('queue', name), sequence)
  dueAt(name, sequence, due)
end

-- An entry as Python reads it.
local function entry(sequence, state, body)
  return sequence .. ' ' .. packState(state) .. '\t' .. body .. '\n'
end
