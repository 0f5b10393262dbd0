package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

// edgeExample is configs/edge.yaml in a folder, on ports of its own, with devices that enrol over EST (est-N) and CMP (cmp-N).
func edgeExample(t *testing.T, devices int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	text, err := os.ReadFile("../configs/edge.yaml")
	if err != nil {
		t.Fatal(err)
	}
	config := string(text)
	for _, port := range []string{"8080", "8081", "8443"} {
		config = replaced(config, "127.0.0.1:"+port, "127.0.0.1:0")
	}
	var csv strings.Builder
	csv.WriteString("name,serial,secret\n")
	for i := range devices {
		fmt.Fprintf(&csv, "est-%d,E-%d,\ncmp-%d,C-%d,k7Jr2vTq9wXz4mBnL5cYtd%d\n", i, i, i, i, i)
	}
	for name, text := range map[string]string{"edge.yaml": config, "devices.csv": csv.String()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The box needs nobody: in a network namespace that has nothing but its own loopback, and where a look for any other address would be
// an error that is traced, it starts, enrols over EST and CMP, and ends; no connect() or sendto() goes anywhere but to loopback.
func TestEdgeAlone(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("a network namespace of its own needs root")
	}
	dir := edgeExample(t, 1)
	script := `ip link set lo up 2>/dev/null || ifconfig lo up
umask 077
strace -f -qq -e trace=connect,sendto,sendmsg -e signal=none -o trace "$MUSTER" serve --config edge.yaml --data data 2>log & gateway=$!
trap 'kill $(pgrep -P $gateway) 2>/dev/null; wait' EXIT
for i in $(seq 600); do grep -q msg=ready log && break; kill -0 $gateway; sleep 0.1; done
grep -q msg=ready log
at() { sed -n "s/.*listener=$1 address=\([^ ]*\).*/\1/p" log | head -1; }
"$MUSTER" device import devices.csv --data data
"$MUSTER" challenge new --endpoint site --device est-0 --data data > challenge
openssl ecparam -name prime256v1 -genkey -noout -out key
openssl req -new -key key -subj /CN=x -outform DER | openssl base64 -A > csr
curl -sS --fail-with-body --cacert data/ca/roots.pem --user "est-0:$(cat challenge)" -H 'Content-Type: application/pkcs10' --data-binary @csr \
  "https://$(at est)/.well-known/est/simpleenroll" -o p7
echo k7Jr2vTq9wXz4mBnL5cYtd0 > secret
openssl cmp -config '' -cmd ir -server "$(at cmp)" -path .well-known/cmp/p/plc -ref cmp-0 -secret file:secret -recipient / -newkey key -subject /CN=x \
  -trusted data/ca/roots.pem -certout cert 2>cmp.log || { cat cmp.log; exit 1; }
"$MUSTER" status --data data`
	cmd := exec.Command("unshare", "--net", "sh", "-euc", script)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "MUSTER="+binary)
	if out, err := cmd.CombinedOutput(); err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		t.Fatalf("%v\n%s\n%s", err, out, log)
	}
	trace, err := os.ReadFile(filepath.Join(dir, "trace"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(trace)) {
		if strings.Contains(line, "AF_INET") && !strings.Contains(line, `"127.0.0.1"`) && !strings.Contains(line, `"::1"`) {
			t.Errorf("it calls somebody: %s", line)
		}
	}
}

// edgeMemory is what gateway and plugin of a small box may take together, in bytes.
const edgeMemory = 64 << 20

// 200 enrollments each over EST and CMP, in a cgroup whose processes get 64 MiB together and no swap. Where the kernel gives no such
// group to tests, their resident memory is looked at after each enrollment.
func TestEdgeMemory(t *testing.T) {
	each := scaled(50, 200)
	dir := edgeExample(t, each)
	group := memoryGroup(t)
	g := &instance{t: t, dir: filepath.Join(dir, "data")}
	g.cmd = exec.Command("sh", "-euc", `[ -z "$GROUP" ] || echo $$ > "$GROUP/cgroup.procs"; exec "$MUSTER" serve --config edge.yaml --data data`)
	g.cmd.Dir, g.cmd.Env = dir, append(os.Environ(), "MUSTER="+binary, "GROUP="+group, "GOMEMLIMIT=24MiB")
	g.start(g.cmd)
	t.Cleanup(func() { g.stop() })
	g.env = map[string]string{
		"MUSTER_HTTP": "http://" + g.listening("cmp"), "MUSTER_HTTPS": "https://" + g.listening("est"), "MUSTER_DATA": g.dir, "MUSTER": binary,
		"MUSTER_CA": filepath.Join(g.dir, "ca", "roots.pem"),
	}
	g.muster("device", "import", filepath.Join(dir, "devices.csv"))
	operator := admin.NewClient(filepath.Join(g.dir, "admin.sock"))
	client, most := g.client(nil), int64(0)
	for i := range each {
		name := fmt.Sprintf("est-%d", i)
		challenge, err := operator.NewChallenge(t.Context(), admin.NewChallenge{Endpoint: "site", Device: name})
		if err != nil {
			t.Fatal(err)
		}
		d := newDevice(t, name)
		d.csr = request(t, d.key, name)
		a, err := g.post(t.Context(), client, "simpleenroll", name, challenge.Challenge, "application/pkcs10", []byte(toBase64(d.csr)))
		if err != nil || a.status != http.StatusOK {
			t.Fatalf("%s: %v, %+v\n%s", name, err, a, g.stderr)
		}
		c := g.cmpDevice(fmt.Sprintf("cmp-%d", i))
		c.url, c.ref, c.secret = g.env["MUSTER_HTTP"]+"/.well-known/cmp/p/plc", fmt.Sprintf("cmp-%d", i), fmt.Appendf(nil, "k7Jr2vTq9wXz4mBnL5cYtd%d", i)
		if err := c.enroll(); err != nil {
			t.Fatalf("cmp-%d: %v\n%s", i, err, g.stderr)
		}
		most = max(most, g.resident())
	}
	killed := ""
	for _, name := range []string{"memory.events", "memory.oom_control"} {
		if events, err := os.ReadFile(filepath.Join(group, name)); group != "" && err == nil {
			killed = string(events)
		}
	}
	if group != "" && !strings.Contains(killed, "oom_kill 0\n") {
		t.Errorf("the kernel killed for memory, or does not say:\n%s", killed)
	}
	t.Logf("at most %d MiB resident; the group of 64 MiB: %q", most>>20, group)
	if most > edgeMemory {
		t.Errorf("%d MiB resident", most>>20)
	}
}

// memoryGroup makes a cgroup of 64 MiB without swap, of version 2 or 1; "" where the kernel lets nobody here make one.
func memoryGroup(t *testing.T) (dir string) {
	t.Helper()
	for _, version := range []struct{ root, has, most, swap string }{
		{"/sys/fs/cgroup", "cgroup.controllers", "memory.max", "memory.swap.max"},
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"},
	} {
		dir := filepath.Join(version.root, fmt.Sprintf("muster-edge-%d", os.Getpid()))
		if _, err := os.Stat(filepath.Join(version.root, version.has)); err != nil || os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			for range 100 {
				if os.Remove(dir) == nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
		if os.WriteFile(filepath.Join(dir, version.most), []byte(strconv.Itoa(edgeMemory)), 0o644) != nil {
			continue
		}
		swap := "0"
		if version.swap == "memory.memsw.limit_in_bytes" { // memory and swap together
			swap = strconv.Itoa(edgeMemory)
		}
		os.WriteFile(filepath.Join(dir, version.swap), []byte(swap), 0o644) //nolint:errcheck // a kernel without swap has no such file
		return dir
	}
	return ""
}

// resident is what gateway and plugins have in memory together, in bytes, without the pages of their program: the kernel reads those again when it
// needs the room.
func (g *instance) resident() (sum int64) {
	for _, pid := range append([]int{g.cmd.Process.Pid}, g.children()...) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if name == "RssAnon" || name == "RssShmem" {
				sum += kib << 10
			}
		}
	}
	return sum
}

func (g *instance) children() (pids []int) {
	out, err := exec.Command("pgrep", "-P", strconv.Itoa(g.cmd.Process.Pid)).Output()
	if err != nil {
		return nil
	}
	for text := range strings.FieldsSeq(string(out)) {
		if pid, err := strconv.Atoi(text); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
