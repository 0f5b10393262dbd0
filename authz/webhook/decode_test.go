package webhook

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// An answer has one meaning, or none.
func TestDecode(t *testing.T) {
	for text, want := range map[string]error{
		`{"allow":true}`: nil, ` {"allow":true} ` + "\n": nil, goodReply: nil, `{}`: nil, `{"allow":null}`: nil,
		`{"list":{"Allow":1,"deep":[[[[[1]]]]]}}`: nil,
		``:                                  errForm,
		`true`:                              errForm,
		`[{"allow":true}]`:                  errForm,
		`{"allow":true`:                     errForm,
		`{"allow":true}{}`:                  errForm,
		`{"allow":true}x`:                   errForm,
		`{"allow":true}}`:                   errForm,
		`{"allow":"true"}`:                  errForm,
		`{"allow":1}`:                       errForm,
		`{"allow":true,}`:                   errForm,
		`{'allow':true}`:                    errForm,
		`{"reason":1}`:                      errForm,
		`{"allow":true,"more":1}`:           errUnknown,
		`{"Allow":true}`:                    errUnknown,
		`{"ALLOW":true}`:                    errUnknown,
		`{"allow":false,"allow":true}`:      errTwice,
		`{"allow":false,"\u0061llow":true}`: errTwice,
		`{"list":{"a":1,"a":2}}`:            errTwice,
		`{"list":[[[[[[[[1]]]]]]]]}`:        errDepth,
		`{"list":` + strings.Repeat("[", 30000) + `}`: errDepth,
		"{\"allow\":true,\"reason\":\"\xff\"}":        errText,
		`{"allow":true,"reason":"\ud800"}`:            errText,
		`{"allow":true,"list":{"\udc00\ud800":1}}`:    errText,
		`{"allow":true,"reason":"\ud83d\ude00"}`:      nil,
		"\ufeff" + `{"allow":true}`:                   errForm,
		`{"allow":true}` + "\x00":                     errForm,
		`{"allow":true,"list":1e999}`:                 errForm,
	} {
		var a reply
		if err := decode([]byte(text), &a); !errors.Is(err, want) || (err != nil) != (want != nil) {
			t.Errorf("%.80s: %v, want %v", text, err, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(goodReply))
	f.Add([]byte(`{"list":[[{"a":{}}]]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var a, b reply
		if decode(data, &a) != nil {
			return
		}
		// What is taken, any other reader takes for the same.
		if err := json.Unmarshal(data, &b); err != nil || (a.Allow == nil) != (b.Allow == nil) || a.Allow != nil && *a.Allow != *b.Allow {
			t.Errorf("%q: %v", data, err)
		}
	})
}
