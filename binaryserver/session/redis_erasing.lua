-- Before the scripts that remove boxes, behind that of mailboxes.

-- Remove what is kept of a box that is not connected, but its last epoch, unless that may go before a time.
-- Gives whether there was anything else, and how many messages, streams and fingerprints went.
local function erase(name, before)
  local box, mail, fingerprints = key('box', name), key('mail', name), key('fingerprints', name)
  local old = redis.call('HMGET', box, 'owner', 'marks', 'epoch')
  local wasKnown = old[1] or old[2] or redis.call('EXISTS', mail, fingerprints, key('finished', name), key('events', name)) > 0
  local messages, streams, known = 0, 0, redis.call('LLEN', fingerprints)
  for _, text in ipairs(redis.call('HKEYS', mail)) do
    local sequence = string.match(text, '^s:(%d+)$')
    if sequence then
      messages = messages + 1
      redis.call('ZREM', prefix .. 'due', sequence .. ' ' .. name)
    end
  end
  for _ in string.gmatch(old[2] or '', '[^,]+') do
    streams = streams + 1
  end
  redis.call('DEL', box, mail, fingerprints, key('queue', name), key('finished', name))
  forget(name)
  local account, asset = parts(name)
  redis.call('SREM', key('accounts', asset), account)
  redis.call('ZREM', prefix .. 'names', listed(name))
  local until_ = old[3] and EPOCH_2010_MS + old[3] + EPOCH_KEPT_MS
  if until_ and not (before and until_ < before) then
    redis.call('HSET', box, 'epoch', old[3])
    redis.call('ZADD', prefix .. 'seen', digits(until_), name)
  else
    redis.call('ZREM', prefix .. 'seen', name)
  end
  return wasKnown, messages, streams, known
end
