# Sends one request, and prints what came back.
require "net/http"

puts Net::HTTP.get(URI(ARGV[0]))
