-- window, and then for each box its name and what is to be appended: 8 bytes for each fingerprint, as they are. What the list
-- ends with already is not appended again: the answer was lost.
local SIZE, PUSHED = 8, 1000
local window = tonumber(ARGV[2])

local function overlap(ends, more)
  local last = string.sub(ends, -SIZE)
  for length = math.min(#ends, #more), SIZE, -SIZE do
    if string.sub(more, length - SIZE + 1, length) == last and string.sub(ends, -length) == string.sub(more, 1, length) then
      return length
    end
  end
  return 0
end

for at = 3, #ARGV, 2 do
  local list, more = key('fingerprints', ARGV[at]), string.sub(ARGV[at + 1], -window * SIZE)
  local ends = #more > 0 and table.concat(redis.call('LRANGE', list, -(#more / SIZE), -1)) or ''
  local values = {}
  for place = overlap(ends, more) + 1, #more, SIZE do
    values[#values + 1] = string.sub(more, place, place + SIZE - 1)
    if #values == PUSHED then
      redis.call('RPUSH', list, unpack(values))
      values = {}
    end
  end
  if #values > 0 then
    redis.call('RPUSH', list, unpack(values))
  end
  redis.call('LTRIM', list, -window, -1)
  if #more > 0 and redis.call('HEXISTS', key('box', ARGV[at]), 'owner') == 0 then
    stray(ARGV[at])
  end
end
return 1
