package admin

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

// A key that was made for a device is shown to nobody, encrypted as it is.
func TestSealedKeyIsNotShown(t *testing.T) {
	sealed := []byte("a sealed key of a device")
	tx := transaction(1, gateway.StateUnconfirmed, func(x *gateway.Transaction) { x.SealedKey = sealed })
	shown, err := json.Marshal(transactionOf(tx, false, true))
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{string(sealed), hex.EncodeToString(sealed), base64.StdEncoding.EncodeToString(sealed)} {
		if strings.Contains(string(shown), form) {
			t.Errorf("%s", shown)
		}
	}
}
