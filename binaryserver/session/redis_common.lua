-- Before every script, behind the constants of binaryserver.model. ARGV[1] is the prefix of all keys. A batch is one argument
-- of fields, each ended by a line feed, which no field has in it: texts come escaped as JSON escapes them. Replies are made
-- alike.
--
-- Of each box, by its name (ACCOUNT/ASSET): "box", a hash, of which "epoch" alone is left once the box was erased; "fingerprints",
-- a list; and what redis_mail.lua has of mailboxes. The names of boxes stand in: "held" of each owner and "linked" of each account,
-- those that are connected; "accounts" of each asset; "adopted" of each attempt; and "seen", those that are not connected, by
-- the time of which it counts for how long they are kept; "names", those that ever had an owner, by ACCOUNT, a tab and ASSET.
-- "events", a list of each box, what is remembered of it; "tried" of each asset, the accounts under which it was refused; and
-- "strangers", names that were refused and are no box, by when. Whoever adds to these lists adds to redis_erasing.lua, too.
local prefix = ARGV[1]

local function key(kind, name)
  return prefix .. kind .. ':' .. name
end

local function fields(text)
  return string.gmatch(text, '([^\n]*)\n')
end

-- tostring() would round what has more than 14 digits.
local function digits(number)
  return string.format('%.0f', number)
end

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Decimal texts: 64 bits do not fit into Lua's numbers.
local function greater(one, other)
  local isNegative = string.sub(one, 1, 1) == '-'
  if isNegative ~= (string.sub(other, 1, 1) == '-') then
    return not isNegative
  end
  if isNegative then
    one, other = other, one
  end
  if #one ~= #other then
    return #one > #other
  end
  return one > other
end

-- Merge a mark into a box's: "STREAM COMMITTED LATEST", separated by commas, the one raised last at the end.
local function raise(text, stream, committed, latest)
  local kept = {}
  for s, c, l in string.gmatch(text or '', '([^ ,]+) ([^ ,]+) ([^ ,]+)') do
    if s == stream then
      if greater(c, committed) then committed = c end
      if greater(l, latest) then latest = l end
    else
      kept[#kept + 1] = s .. ' ' .. c .. ' ' .. l
    end
  end
  kept[#kept + 1] = stream .. ' ' .. committed .. ' ' .. latest
  if #kept > KEPT_STREAMS then
    table.remove(kept, 1)
  end
  return table.concat(kept, ',')
end

-- What an incarnation is to the store: a name of binaryserver.model.Renewal.
local function standing(instance, incarnation)
  if redis.call('ZSCORE', prefix .. 'alive', incarnation) then
    return 'renewed'
  end
  local last = redis.call('HGET', prefix .. 'incarnations', instance)
  if last and last ~= incarnation then
    return 'superseded'
  end
  if last or redis.call('ZSCORE', prefix .. 'declared', incarnation) then
    return 'declaredDead'
  end
  return 'unknown'
end

-- The account and the asset of a box, as keys have them.
local function parts(name)
  return string.match(name, '^([^/]*)/(.*)$')
end

-- A box is no longer what an attempt, if there is one, has adopted.
local function unadopt(name, attempt)
  if attempt then
    redis.call('SREM', key('adopted', attempt), name)
  end
end

-- Something is kept of a box that has no owner: it goes with those that were last seen now.
local function stray(name)
  redis.call('ZADD', prefix .. 'seen', 'NX', digits(clock()), name)
end

-- How a box stands in "names": no name has a tab, and none of its signs is below.
local function listed(name)
  return (string.gsub(name, '/', '\t', 1))
end

-- Add an event to those of a box: "AT TIMES SINCE EPOCH PEER INSTANCE REST". With the last one it is one if the rest is equal.
local function remember(name, at, epoch, peer, instance, rest)
  local list, times, since = key('events', name), 0, at
  local lastTimes, lastSince, lastRest = string.match(redis.call('LINDEX', list, -1) or '',
    '^%S+ (%S+) (%S+) %S+ %S+ %S+ (.*)$')
  if lastRest == rest then
    times, since = tonumber(lastTimes), lastSince
    redis.call('RPOP', list)
  end
  redis.call('RPUSH', list, table.concat({at, digits(times + 1), since, epoch, peer, instance, rest}, ' '))
  redis.call('LTRIM', list, -KEPT_EVENTS, -1)
end

-- Remove what is remembered of a box.
local function forget(name)
  local account, asset = parts(name)
  redis.call('DEL', key('events', name))
  redis.call('SREM', key('tried', asset), account)
  redis.call('ZREM', prefix .. 'strangers', name)
end

-- Make an incarnation the owner of a box, of which old is the present one or false, and adopted the attempt that adopted it or
-- false. A claim that comes again is another one from then on, unless its attempt is noted.
local function own(name, old, adopted, incarnation, epoch, protocol, peer, since, listening)
  if old and old ~= incarnation then
    redis.call('SREM', key('held', old), name)
  end
  unadopt(name, adopted)
  redis.call('HSET', key('box', name), 'owner', incarnation, 'epoch', epoch, 'connected', '1', 'protocol', protocol,
    'peer', peer, 'seen', since, 'since', since, 'listening', listening)
  redis.call('HDEL', key('box', name), 'attempt', 'previous', 'adopted', 'lost')
  redis.call('SADD', key('held', incarnation), name)
  redis.call('SADD', prefix .. 'owners', incarnation)
  redis.call('SADD', key('linked', (parts(name))), name)
  redis.call('ZREM', prefix .. 'seen', name)
end

-- A box has an owner now: it is found by its asset, and its mailbox stays.
local function enlist(name)
  local account, asset = parts(name)
  redis.call('SADD', key('accounts', asset), account)
  redis.call('ZADD', prefix .. 'names', 0, listed(name))
  redis.call('ZREM', prefix .. 'strangers', name)
  redis.call('PERSIST', key('mail', name))
end
