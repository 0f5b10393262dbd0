package main

import (
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

func TestRetention(t *testing.T) {
	const day = 24 * time.Hour
	for section, want := range map[string]gateway.Retention{
		"":                                      {Refused: 90 * day},
		"retention: {}":                         {Refused: 90 * day},
		"retention: {ended: 10d}":               {Refused: 90 * day, Ended: 10 * day},
		"retention: {refused: 0}":               {},
		"retention: {refused: 1d, ended: 400d}": {Refused: day, Ended: 400 * day},
	} {
		c, err := parseConfig("muster.yaml", t.TempDir(), []byte(good+"\n"+section+"\n"))
		if err != nil {
			t.Errorf("%s: %v", section, err)
			continue
		}
		if got := c.retention(); got != want {
			t.Errorf("%s: %+v, want %+v", section, got, want)
		}
	}
	for section, want := range map[string]string{
		"retention: {refused: 23h}":  "retention.refused: 23h is less than 1d",
		"retention: {ended: 1h}":     "retention.ended: 1h is less than 1d",
		"retention: {refuse: 1d}":    `did you mean "refused"`,
		"retention: {refused: soon}": "wants a period",
	} {
		if _, err := parseConfig("muster.yaml", t.TempDir(), []byte(good+"\n"+section+"\n")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", section, err, want)
		}
	}
}
