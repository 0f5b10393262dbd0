package admin

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
)

// bodies are what the calls take.
func bodies() []any {
	return []any{new(Enrollments), &map[string]string{}, &struct {
		Name    string            `json:"name"`
		Count   int               `json:"count"`
		Nested  []struct{ A int } `json:"nested"`
		Labels  map[string]string `json:"labels"`
		Secret  []byte            `json:"secret"`
		Pointer *bool             `json:"pointer"`
	}{}}
}

// FuzzStrictJSON: a body is one object with each field once, or an error of one line that does not repeat its values.
func FuzzStrictJSON(f *testing.F) {
	for _, s := range []string{
		`{"name":"a","count":1,"nested":[{"A":1}],"labels":{"x":"y","X":"z"},"secret":"AAEC","pointer":null}`,
		`{"name":"a","NAME":"b"}`, `{"n\u0061me":"a","name":"b"}`, `{"labels":{"a":"1","a":"2"}}`, `{"secret":"%"}`, `{} {}`, `"unlimited"`, `{"name":"\ud800"}`, "{\"\xff\":1}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, into := range bodies() {
			err := strictJSON([]byte(text), into)
			if err != nil {
				if len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\n\x1b") {
					t.Errorf("%.2000q", err)
				}
				continue
			}
			if twice(t, json.NewDecoder(strings.NewReader(text))) {
				t.Errorf("%s: a name stands twice", text)
			}
		}
	})
}

// twice reads one value by its tokens, and reports whether an object in it has a name twice.
func twice(t *testing.T, d *json.Decoder) bool {
	t.Helper()
	type level struct {
		names map[string]bool // nil for a list
		value bool            // a value comes next
	}
	var at []level
	for {
		token, err := d.Token()
		if err == io.EOF {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		top := len(at) - 1
		switch token {
		case json.Delim('}'), json.Delim(']'):
			at = at[:top]
			continue
		}
		if name, ok := token.(string); ok && top >= 0 && at[top].names != nil && !at[top].value {
			if at[top].names[name] {
				return true
			}
			at[top].names[name], at[top].value = true, true
			continue
		}
		if top >= 0 {
			at[top].value = false
		}
		switch token {
		case json.Delim('{'):
			at = append(at, level{names: map[string]bool{}})
		case json.Delim('['):
			at = append(at, level{})
		}
	}
}

// FuzzParseToken: a line of the token file has a name, a role and a hash, or its error has nothing of it.
func FuzzParseToken(f *testing.F) {
	f.Add("ops:admin:{sha256}" + strings.Repeat("0f", 32))
	f.Add("a:b:c")
	f.Add("ops:viewer:{sha256}" + strings.Repeat("zz", 32))
	f.Fuzz(func(t *testing.T, line string) {
		got, err := parseToken(line)
		if err != nil {
			if len(err.Error()) > 1000 || got != (token{}) {
				t.Fatalf("%+v, %.2000q", got, err)
			}
			return
		}
		if got.name == "" || len(got.name) > maxTokenName || strings.ContainsAny(got.name, ": \n") {
			t.Errorf("%+v", got)
		}
		if (tokens{got}).admit(got) == nil {
			t.Error("the same token twice")
		}
	})
}
