-- Streaming chat requests for wrk, each with a question of its own (no cache may win the benchmark):
--   wrk -t2 -c64 -d5 -s ops/bench/wrk_chat.lua http://127.0.0.1:8000 -- [model] [tokens] [text]

local headers = { ["Content-Type"] = "application/json" }
local before, after
local count = 0

function init(args)
  local model = args[1] or "mock"
  local tokens = args[2] or "64"
  local text = args[3] or "What is the capital of France, and why is it famous?"
  math.randomseed(os.time())
  count = math.random(1000000)
  before = string.format(
    '{"model":"%s","stream":true,"max_tokens":%s,"messages":[{"role":"user","content":"Question ', model, tokens)
  after = ". " .. text .. '"}]}'
end

function request()
  count = count + 1
  return wrk.format("POST", "/v1/chat/completions", headers, before .. count .. after)
end
