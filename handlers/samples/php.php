<?php
$lead = [
    "token" => "demo",
    "tour_request" => [
        "requestor_name" => "Jane Doe",
        "requestor_email" => "jane@example.com",
        "message" => "Is 4B still free?",
    ],
];
$context = stream_context_create(["http" => [
    "method" => "POST",
    "header" => "Content-Type: application/json\r\nIdempotency-Key: " . bin2hex(random_bytes(16)),
    "content" => json_encode($lead),
    "timeout" => 30,
    "ignore_errors" => true,
]]);
$answer = json_decode(file_get_contents("http://127.0.0.1:8080/api/v1/website_leads", false, $context), true);
echo isset($answer["id"]) ? "lead {$answer["id"]}\n" : json_encode($answer["error"]) . "\n";
