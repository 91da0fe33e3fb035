require "json"
require "net/http"
require "securerandom"

lead = {
  token: "demo",
  tour_request: {
    requestor_name: "Jane Doe", requestor_email: "jane@example.com", message: "Is 4B still free?"
  }
}
answer = Net::HTTP.post(
  URI("http://127.0.0.1:8080/api/v1/website_leads"),
  lead.to_json,
  "Content-Type" => "application/json", "Idempotency-Key" => SecureRandom.uuid
)
body = JSON.parse(answer.body)
puts answer.code == "201" ? "lead #{body["id"]}" : "#{answer.code} #{body["error"]}"
