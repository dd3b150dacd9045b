-- name
local name = ARGV[2]
local sequences = {}
for _, text in ipairs(redis.call('HKEYS', key('mail', name))) do
  sequences[#sequences + 1] = tonumber(string.match(text, '^s:(%d+)$'))
end
table.sort(sequences)
local answers = {}
for index, number in ipairs(sequences) do
  local sequence = digits(number)
  local state, body = find(name, sequence)
  answers[index] = entry(sequence, state, body)
end
return table.concat(answers)
