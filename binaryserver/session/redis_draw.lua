-- a batch of: name of the bucket, wanted, rate, least
local field = fields(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1e6 + time[2]

local function draw(name, wanted, rate, least)
  local bucket, most = key('bucket', name), math.max(rate * DRAW_BURST, least)
  local text = redis.call('GET', bucket)
  local tokens = most
  if text then
    local left, at = string.match(text, '^(%S+) (%S+)$')
    -- Where the clock was put back, it counts from now on.
    tokens = math.min(most, left + math.max(0, now - at) * rate / 1e6)
  end
  local granted = tokens >= least and math.min(wanted, tokens) or 0
  tokens = tokens - granted
  -- A bucket that is full again is as one that is not there.
  local rest = math.max(1, math.ceil((most - tokens) / rate * 1000))
  redis.call('SET', bucket, string.format('%.17g %.0f', tokens, now), 'PX', digits(rest))
  return string.format('%.17g', granted)
end

local answers = {}
local name = field()
while name do
  answers[#answers + 1] = draw(name, tonumber(field()), tonumber(field()), tonumber(field()))
  name = field()
end
return table.concat(answers, '\n')
