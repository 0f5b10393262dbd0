package store

import (
	"errors"
	"reflect"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

// scanned gives the columns of a row: text to whatever takes text, n to what takes a number.
func scanned(texts []string, blob []byte, n int64) func(...any) error {
	return func(dest ...any) error {
		i := 0
		for _, d := range dest {
			v := reflect.ValueOf(d).Elem()
			switch {
			case v.Kind() == reflect.String:
				v.SetString(texts[min(i, len(texts)-1)])
				i++
			case v.Kind() == reflect.Int64:
				v.SetInt(n)
			case v.Type() == reflect.TypeFor[[]byte]():
				v.SetBytes(blob)
			default:
				s, ok := d.(interface{ Scan(any) error })
				if !ok {
					return errors.New("a column of type " + v.Type().String())
				}
				if s.Scan(n) != nil {
					return errors.New("a column that takes no number")
				}
			}
		}
		return nil
	}
}

// FuzzRow: whatever stands in the columns of the store, a row is read whole, or the error names it.
func FuzzRow(f *testing.F) {
	f.Add("[]", "[]", `{"Template":{}}`, "", "", "", []byte(`{"identifiers":[{"kind":"serial","value":"1"}]}`), int64(1))
	f.Add(`[{"Kind":"mac"}]`, `[{"Stage":"x"}]`, "{", `{"Approvers":1}`, `["x"]`, "{}", []byte("[1"), int64(-1))
	f.Add("null", "", "", "", "", "", []byte(nil), int64(1)<<62)
	f.Fuzz(func(t *testing.T, credentials, verdicts, intent, hold, changes, delivery string, blob []byte, n int64) {
		// In the order of the columns that are text: transactionRow says it.
		texts := []string{"id", "wire", "est", "ran", "enroll", "issued", "192.0.2.1", credentials, "who", "device", "CN=x", verdicts, "repeat", "local", "tls", intent, "", "note", "ticket", "resume", hold, changes, delivery}
		for _, use := range [][]string{texts, {credentials}, {intent}} {
			tx, err := transactionRow(scanned(use, blob, n))
			if err == nil && tx == nil || errors.Is(err, gateway.ErrNotFound) {
				t.Errorf("%+v, %v", tx, err)
			}
			if err == nil && tx.Certificate != nil && tx.Certificate.Revocation != int(n) {
				t.Errorf("%+v", tx.Certificate)
			}
		}
		d, err := deviceRow(scanned(texts, blob, n))
		if (err == nil) == (d == nil) || errors.Is(err, gateway.ErrNotFound) {
			t.Errorf("%+v, %v", d, err)
		}
		if err != nil {
			return
		}
		// What is written of it anew is read the same.
		body, err := bodyOf(d)
		if err != nil {
			return // a time beyond what JSON has
		}
		again, err := deviceRow(scanned(texts, []byte(body), n))
		if err != nil {
			t.Fatal(err)
		}
		d.Sealed, again.Sealed = nil, nil
		if len(again.Identifiers) != len(d.Identifiers) || len(again.Attributes) != len(d.Attributes) || !again.NotAfter.Equal(d.NotAfter) || again.Enrollments != d.Enrollments {
			t.Errorf("%+v becomes %+v", d, again)
		}
	})
}
