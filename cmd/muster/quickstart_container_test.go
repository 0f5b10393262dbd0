package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/authz"
)

// A container's first configuration differs in where it listens, and in nothing else.
func TestContainerConfig(t *testing.T) {
	hash := authz.HashSecret([]byte("secret"))
	plain, made := string(quickstartConfig(hash, hash)), string(containerConfig(hash, hash))
	if strings.Count(made, "address: 0.0.0.0:") != 2 || strings.ReplaceAll(made, "0.0.0.0", "127.0.0.1") != plain {
		t.Errorf("%s", made)
	}
	q := quickstart{t.TempDir()}
	if err := q.prepare(containerConfig); err != nil {
		t.Fatal(err)
	}
	c, err := checkConfig(t.Context(), q.config())
	if err != nil || c.Listeners["http"].Address != "0.0.0.0:8080" || c.Listeners["https"].Address != "0.0.0.0:8443" {
		t.Errorf("%v: %+v", err, c.Listeners)
	}
}

// What a container prints is for its host: no path of the container stands there but in what docker is told, and nothing that Go has to run.
// e2e/container runs it.
func TestContainerScreen(t *testing.T) {
	q := quickstart{filepath.Join(t.TempDir(), "it's data")}
	if err := os.MkdirAll(q.data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := q.prepare(containerConfig); err != nil {
		t.Fatal(err)
	}
	c, err := checkConfig(t.Context(), q.config())
	if err != nil {
		t.Fatal(err)
	}
	settings, err := q.settings(c, map[string]net.Addr{"http": &net.TCPAddr{IP: net.IPv4zero, Port: 8080}, "https": &net.TCPAddr{IP: net.IPv4zero, Port: 8443}})
	if err != nil {
		t.Fatal(err)
	}
	var w bytes.Buffer
	q.screen(&w, c, settings, inContainer(q, "4d5e6f708192"), time.Second)
	screen := w.String()
	dir := shellQuote(q.data)
	for _, want := range []string{
		"  EST      https://127.0.0.1:8443/.well-known/est\n", "  docker cp 4d5e6f708192:" + strings.TrimSuffix(dir, "'") + "/quickstart.env' . && ", " && . ./quickstart.env && MUSTER_CA=roots.pem\n", `-trusted "$MUSTER_CA" `,
		"  docker exec 4d5e6f708192 muster simulate enroll --protocol scep --devices 1 --data " + dir + "\n",
		"  docker exec 4d5e6f708192 muster reload --data " + dir + "\n", "--volumes-from 4d5e6f708192 busybox vi ",
	} {
		if !strings.Contains(screen, want) {
			t.Errorf("want %q in\n%s", want, screen)
		}
	}
	for _, unwanted := range []string{"go run", "VENDOR_CA", q.data + "/roots.pem\" "} {
		if strings.Contains(screen, unwanted) {
			t.Errorf("%q stands in\n%s", unwanted, screen)
		}
	}
}
