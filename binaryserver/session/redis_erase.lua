-- name
local name = ARGV[2]
if redis.call('HGET', key('box', name), 'connected') == '1' then
  return {1, 1, 0, 0, 0}
end
local wasKnown, messages, streams, fingerprints = erase(name)
return {wasKnown and 1 or 0, 0, messages, streams, fingerprints}
