package gateway_test

import (
	"context"
	"errors"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// keyring is a stage that knows key-encryption keys.
type keyring struct {
	password
	keys map[string]string
	err  error
}

func (k keyring) WrappingKey(_ context.Context, endpoint string, id []byte) (gateway.Secret, error) {
	if k.err != nil {
		return nil, k.err
	}
	if key, ok := k.keys[endpoint+"/"+string(id)]; ok {
		return gateway.Secret(key), nil
	}
	return nil, gateway.ErrNotFound
}

// The first stage of the operation's pipeline that knows the key gives it; that none does, or cannot tell, is the pipeline's to say.
func TestWrappingKey(t *testing.T) {
	w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
		w.enroll = gateway.Pipeline{keyring{password: password{"secret"}, err: errors.New("down")}, gateway.AnyOf(gateway.Pipeline{
			keyring{password: password{"secret"}, keys: map[string]string{w.request("x").Endpoint + "/a": "first"}}},
			gateway.Pipeline{keyring{password: password{"secret"}, keys: map[string]string{w.request("x").Endpoint + "/a": "second", w.request("x").Endpoint + "/b": "other"}}})}
	})
	at := w.request("x").Endpoint
	for _, tt := range []struct {
		endpoint string
		op       gateway.Operation
		id, want string
	}{
		{at, gateway.Enroll, "a", "first"}, {at, gateway.Enroll, "b", "other"}, {at, gateway.Enroll, "c", ""},
		{at, gateway.Revoke, "a", ""}, {"nowhere", gateway.Enroll, "a", ""},
	} {
		if got := w.gw.WrappingKey(t.Context(), tt.endpoint, tt.op, []byte(tt.id)); string([]byte(got)) != tt.want {
			t.Errorf("%+v: %q", tt, []byte(got))
		}
	}
}
