-- a batch of: name, id
local field = fields(ARGV[2])

local function remove(name, id)
  local mail, finished = key('mail', name), key('finished', name)
  local sequence = redis.call('HGET', mail, 'i:' .. id)
  local text = sequence and redis.call('HGET', mail, 's:' .. sequence)
  local state = text and unpackState(text)
  if not state or state[FINAL] == NONE then
    return
  end
  redis.call('HDEL', mail, 'i:' .. id, 's:' .. sequence, 'b:' .. sequence)
  redis.call('ZREM', prefix .. 'due', sequence .. ' ' .. name)
  local expires, chosen = tonumber(state[EXPIRES]), tonumber(state[FINAL_AT])
  redis.call('ZADD', finished, digits(math.min(math.max(expires, chosen) + REMEMBERED_MS, NEVER)), id)
  -- The ids of a box that gets no more messages go with their key, and so does the mailbox of one that has never come. The
  -- time is counted from when the status was chosen, which is in the past: callers' clocks need not agree with Redis's.
  local rest = math.min(math.max(expires - chosen, 0) + REMEMBERED_MS, NEVER)
  if redis.call('PTTL', finished) < rest then
    redis.call('PEXPIRE', finished, digits(rest))
  end
  if redis.call('HLEN', mail) == OWN_FIELDS and redis.call('HEXISTS', key('box', name), 'owner') == 0 then
    redis.call('PEXPIRE', mail, redis.call('PTTL', finished))
  end
end

local name = field()
while name do
  remove(name, field())
  name = field()
end
return 1
