package strictyaml

import (
	"errors"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// Duration is a period as configurations write it: "30s", "10m", "12h", "397d", "1d12h". A day is 24 hours.
// A field of type time.Duration is read in the same way.
type Duration time.Duration

// String is the form that ParseDuration reads.
func (d Duration) String() string {
	t := time.Duration(d)
	if t < 0 {
		return t.String()
	}
	days, rest := t/(24*time.Hour), t%(24*time.Hour)
	s := ""
	if days > 0 {
		s = strconv.FormatInt(int64(days), 10) + "d"
	}
	if rest == 0 && days > 0 {
		return s
	}
	text := rest.String()
	// time.Duration writes 12h as 12h0m0s.
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return s + text
}

var errDuration = errors.New("wants a period such as 30s, 10m, 12h or 397d")

// ParseDuration reads days, then what time.ParseDuration reads; either may be absent. Negative periods are errors.
func ParseDuration(s string) (Duration, error) {
	var days int64
	rest := s
	if number, after, ok := strings.Cut(s, "d"); ok {
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil || n > math.MaxInt64/uint64(24*time.Hour) {
			return 0, errDuration
		}
		days, rest = int64(n), after
		if rest == "" {
			rest = "0"
		}
	}
	t, err := time.ParseDuration(rest)
	if err != nil || strings.HasPrefix(rest, "-") || strings.HasPrefix(rest, "+") {
		return 0, errDuration
	}
	whole := time.Duration(days) * 24 * time.Hour
	if t > math.MaxInt64-whole {
		return 0, errDuration
	}
	return Duration(whole + t), nil
}

func (d *decoder) duration(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.ScalarNode && (n.ShortTag() == "!!str" || n.Value == "0") {
		if t, err := ParseDuration(n.Value); err == nil {
			v.SetInt(int64(t))
			return
		}
	}
	d.fail(n, path, "%v", errDuration)
}
