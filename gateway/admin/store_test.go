package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/muster-pki/muster/gateway/seal"
	"github.com/muster-pki/muster/gateway/store"
)

// serveStored is the API before a SQLite store.
func serveStored(t *testing.T) *Client {
	t.Helper()
	dir := t.TempDir()
	st, err := store.Open(t.Context(), "sqlite:"+filepath.Join(dir, "muster.db"), store.Options{Instance: "a", Clock: func() time.Time { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(st.VerifyAudit(context.WithoutCancel(t.Context())), st.Close()); err != nil {
			t.Error(err)
		}
	})
	sealer, err := seal.Load(filepath.Join(dir, "seal.key"), true)
	if err != nil {
		t.Fatal(err)
	}
	s := &source{}
	config := newServer(t, s).config
	config.Store, config.Metrics, config.Log = st, prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	config.Sealer = func() Sealer { return sealer }
	config.Clock = func() time.Time { return noon }
	return serveConfig(t, config)
}

func TestWithSQLite(t *testing.T) {
	c := serveStored(t)
	in := Device{Name: "dev/1", Identifiers: []Identifier{{"serial", "S1"}, {"imei", "35-209900-176148-1"}}, Enrollments: 2, Password: generate, Secret: []byte("hunter2hunter2")}
	added, err := c.AddDevice(t.Context(), in, false)
	if err != nil || len(added.Password) != 26 || !added.HasSecret || !added.HasPassword {
		t.Fatalf("%+v, %v", added, err)
	}
	if _, err := c.AddDevice(t.Context(), in, false); status(err) != 409 {
		t.Errorf("again: %v", err)
	}
	if _, err := c.AddDevice(t.Context(), Device{Name: "dev/2", Identifiers: []Identifier{{"serial", "S1"}}}, false); status(err) != 409 || !strings.Contains(err.Error(), "S1") {
		t.Errorf("its serial number: %v", err)
	}
	for _, by := range []string{"dev/1", "S1", "352099001761481"} {
		if got, err := c.Device(t.Context(), by); err != nil || got.Name != "dev/1" || got.Enrollments != 2 || !got.HasSecret || got.Secret != nil || got.Password != "" {
			t.Errorf("%s: %+v, %v", by, got, err)
		}
	}
	if got, err := c.SetDeviceDisabled(t.Context(), "dev/1", true); err != nil || !got.Disabled || !got.HasPassword {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := c.ResetDevice(t.Context(), "dev/1"); err != nil {
		t.Error(err)
	}
	var devices []Device
	for i := range 2000 {
		devices = append(devices, Device{Name: fmt.Sprintf("fleet-%05d", i), Identifiers: []Identifier{{"serial", fmt.Sprintf("F%05d", i)}}, Vendor: "acme"})
	}
	result, err := c.ImportDevices(t.Context(), devices, false, nil)
	if err != nil || *result != (ImportResult{Added: 2000}) {
		t.Fatalf("%+v, %v", result, err)
	}
	devices[7].Identifiers[0].Value = "S1"
	_, err = c.ImportDevices(t.Context(), devices[:10], true, nil)
	if e, ok := errors.AsType[*ImportError](err); !ok || len(e.Failures) != 1 || e.Failures[0].Index != 7 {
		t.Errorf("%v", err)
	}
	list, err := c.Devices(t.Context(), DeviceQuery{Vendor: "acme", Limit: 1000})
	if err != nil || len(list.Devices) != 1000 || list.Next != "fleet-00999" {
		t.Errorf("%v, %v", len(list.Devices), err)
	}
	if _, err := c.DropDevice(t.Context(), "dev/1"); err != nil {
		t.Error(err)
	}
	if _, err := c.Device(t.Context(), "S1"); status(err) != 404 {
		t.Errorf("gone: %v", err)
	}
	made, err := c.NewChallenge(t.Context(), NewChallenge{Endpoint: "ran", Device: "F00001", Subject: "CN=a"})
	if err != nil || made.Device != "fleet-00001" {
		t.Fatalf("%+v, %v", made, err)
	}
	challenges, err := c.Challenges(t.Context(), ChallengeQuery{})
	if err != nil || len(challenges.Challenges) != 1 || challenges.Challenges[0].ID != made.ID || challenges.Challenges[0].Subject != "CN=a" {
		t.Errorf("%+v, %v", challenges, err)
	}
	if err := c.DropChallenge(t.Context(), made.ID); err != nil {
		t.Error(err)
	}
	if err := c.DropChallenge(t.Context(), made.ID); status(err) != 404 {
		t.Errorf("again: %v", err)
	}
	if _, err := c.Revoke(t.Context(), RevokeQuery{Device: "fleet-00001", All: true}, "", ""); status(err) != 404 {
		t.Errorf("nothing to revoke: %v", err)
	}
}
