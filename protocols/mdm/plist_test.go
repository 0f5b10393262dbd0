package mdm

import (
	"errors"
	"strings"
	"testing"
)

func TestReadPlist(t *testing.T) {
	got, err := readPlist([]byte(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- a comment --><plist version="1.0"><dict>
	<key>UDID</key><string>a&amp;b<![CDATA[<c>]]></string>
	<key>Flag</key><true/>
	<key>Data</key><data>AAEC</data>
	<key>Nested</key><dict><key>UDID</key><string>other</string></dict>
	<key>Empty</key><string/>
</dict></plist>
`))
	if err != nil || len(got) != 5 || got["UDID"] != "a&b<c>" || got["Flag"] != "" || got["Data"] != "" || got["Nested"] != "" {
		t.Errorf("%q %v", got, err)
	}
	if got, err := readPlist([]byte("<plist><dict><key>UDID</key><string>" + strings.Repeat("x", 1025) + "</string></dict></plist>")); err != nil || got["UDID"] != "" {
		t.Errorf("a long value: %d bytes, %v", len(got["UDID"]), err)
	}
}

func TestReadPlistRefuses(t *testing.T) {
	pair := "<key>UDID</key><string>x</string>"
	for name, text := range map[string]string{
		"nothing":                 "",
		"text":                    "UDID",
		"binary":                  "bplist00\xd1",
		"a NUL":                   "<plist><dict>" + pair + "</dict></plist>\x00",
		"another encoding":        `<?xml version="1.0" encoding="UTF-16"?><plist><dict>` + pair + "</dict></plist>",
		"no dictionary":           "<plist><array/></plist>",
		"no plist":                "<dict>" + pair + "</dict>",
		"empty":                   "<plist/>",
		"two dictionaries":        "<plist><dict>" + pair + "</dict><dict/></plist>",
		"two lists":               "<plist><dict/></plist><plist><dict/></plist>",
		"a key twice":             "<plist><dict>" + pair + pair + "</dict></plist>",
		"a key without a value":   "<plist><dict><key>UDID</key></dict></plist>",
		"two keys":                "<plist><dict><key>UDID</key><key>X</key><string>x</string></dict></plist>",
		"a value without a key":   "<plist><dict><string>x</string></dict></plist>",
		"an empty key":            "<plist><dict><key></key><string>x</string></dict></plist>",
		"a long key":              "<plist><dict><key>" + strings.Repeat("x", 1025) + "</key><true/></dict></plist>",
		"text between":            "<plist><dict>x" + pair + "</dict></plist>",
		"not nested":              "<plist><dict>" + pair + "</plist></dict>",
		"not closed":              "<plist><dict>" + pair,
		"closed twice":            "<plist><dict/></plist></plist>",
		"a key in another case":   "<plist><dict>" + pair + "<key>udid </key><string>y</string></dict></plist>",
		"an element in a string":  "<plist><dict><key>UDID</key><string>other<x/>x</string></dict></plist>",
		"an element in a key":     "<plist><dict><key>UDID<x/>UDID</key><string>x</string></dict></plist>",
		"a comment in a string":   "<plist><dict><key>UDID</key><string>other<!-- -->x</string></dict></plist>",
		"an instruction in it":    "<plist><dict><key>UDID</key><string>other<?x?>x</string></dict></plist>",
		"a NUL in a comment":      "<!-- \x00 --><plist><dict>" + pair + "</dict></plist>",
		"no UTF-8, in a comment":  "<!-- \xff --><plist><dict>" + pair + "</dict></plist>",
		"a directive within":      "<plist><dict><!DOCTYPE plist>" + pair + "</dict></plist>",
		"a directive behind":      "<plist><dict>" + pair + "</dict></plist><!DOCTYPE plist>",
		"an entity of its own":    `<!DOCTYPE plist [<!ENTITY a "b">]><plist><dict><key>UDID</key><string>&a;</string></dict></plist>`,
		"a subset of its own":     `<!DOCTYPE plist [<!ENTITY a "b">]><plist><dict>` + pair + "</dict></plist>",
		"an entity of nobody's":   "<plist><dict><key>UDID</key><string>&a;</string></dict></plist>",
		"a namespace":             `<plist><dict><x:key>UDID</x:key><string>x</string></dict></plist>`,
		"deep":                    "<plist><dict><key>A</key>" + strings.Repeat("<array>", 31) + strings.Repeat("</array>", 31) + "</dict></plist>",
		"many":                    "<plist><dict><key>A</key><array>" + strings.Repeat("<true/>", 1<<18) + "</array></dict></plist>",
		"deep beyond all measure": strings.Repeat("<array>", 30000),
	} {
		if got, err := readPlist([]byte(text)); !errors.Is(err, errPlist) {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
}

func FuzzReadPlist(f *testing.F) {
	f.Add(checkIn)
	f.Add([]byte(finalText))
	f.Add([]byte("<plist><dict><key>A</key><array><true/></array></dict></plist>"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := readPlist(data)
		if (err == nil) != (got != nil) {
			t.Fatalf("%v %v", got, err)
		}
		for k, v := range got {
			if len(k) > maxPlistString || len(v) > maxPlistString {
				t.Fatalf("%d bytes under %d", len(v), len(k))
			}
		}
	})
}
