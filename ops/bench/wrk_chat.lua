-- Streaming chat requests for wrk:
--   wrk -t2 -c64 -d5 -s ops/bench/wrk_chat.lua http://127.0.0.1:8000 -- [model] [tokens] [text]

local headers = { ["Content-Type"] = "application/json" }
local body

function init(args)
  local model = args[1] or "mock"
  local tokens = args[2] or "64"
  local text = args[3] or "What is the capital of France, and why is it famous?"
  body = string.format(
    '{"model":"%s","stream":true,"max_tokens":%s,"messages":[{"role":"user","content":"%s"}]}',
    model, tokens, text)
end

function request()
  return wrk.format("POST", "/v1/chat/completions", headers, body)
end
