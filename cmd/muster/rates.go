package main

import (
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// RateConfig bounds how fast a CA is asked to issue.
type RateConfig struct {
	// Issued is how many certificates the CA is asked for within the time of `per`, by all replicas together: at most
	// 10000 per second.
	Issued int `yaml:"issued,required"`
	// Per is that time, 1s to 1d. The turns lie evenly in it.
	Per strictyaml.Duration `yaml:"per,required"`
	// Burst is how many may go at once after a rest, or when some were late. Default: as many as a tenth of a second has, 1 at
	// least. With 1 none are nearer than per/issued; a fast CA is left idle then for as long as each is late.
	Burst int `yaml:"burst"`
	// Queue is how many requests of this process may wait for their turn, 10 s at most; the others are told when to come
	// back. All queues together have 256 places. Default: 100, or an equal part of what the others leave; 0: nobody waits.
	Queue *int `yaml:"queue"`
}

const (
	defaultQueue = 100
	maxQueues    = 256 // half of the requests that the gateway has under way
	maxBurst     = 10_000
	maxPer       = 24 * time.Hour
	minApart     = 100 * time.Microsecond
	burstOf      = 100 * time.Millisecond // what the default burst has of the rate
)

// every is what lies between two turns.
func (r *RateConfig) every() time.Duration { return time.Duration(r.Per) / time.Duration(r.Issued) }

func (r *RateConfig) burst() int {
	if r.Burst == 0 {
		return max(int(burstOf/r.every()), 1)
	}
	return r.Burst
}

// rates checks them, and that their queues leave the other requests enough room.
func (f *review) rates() {
	sum := 0
	for _, name := range byName(f.c.Backends) {
		r, path := f.c.Backends[name].Rate, at("backends", name, "rate")
		switch {
		case r == nil:
			continue
		case r.Issued < 1:
			f.fail(append(path, "issued"), "want at least 1; leave rate out for a CA that is asked as fast as requests come")
		case time.Duration(r.Per) < time.Second || time.Duration(r.Per) > maxPer:
			f.fail(append(path, "per"), "want 1s to 1d")
		case r.every() < minApart:
			f.fail(append(path, "issued"), "more than 10000 per second: leave rate out")
		case r.Burst < 0 || r.Burst > maxBurst:
			f.fail(append(path, "burst"), "want 1 to %d", maxBurst)
		case r.Queue != nil && (*r.Queue < 0 || *r.Queue > maxQueues):
			f.fail(append(path, "queue"), "want 0 to %d: whoever waits has one of the 512 places of all requests under way", maxQueues)
		}
		if r.Queue != nil {
			sum += max(*r.Queue, 0)
		}
	}
	if sum > maxQueues {
		f.fail(at("backends"), "the queues of all rates have %d places together, %d more than there are: whoever waits for a CA must leave "+
			"those room who wait for none", sum, sum-maxQueues)
	}
}

// rates are those of the backends that have one.
func (c *Config) rates() map[string]gateway.Rate {
	left, unsaid := maxQueues, 0
	for _, b := range c.Backends {
		switch {
		case b.Rate == nil:
		case b.Rate.Queue == nil:
			unsaid++
		default:
			left -= *b.Rate.Queue
		}
	}
	all := map[string]gateway.Rate{}
	for name, b := range c.Backends {
		if b.Rate == nil {
			continue
		}
		queue := min(defaultQueue, left/max(unsaid, 1))
		if b.Rate.Queue != nil {
			queue = *b.Rate.Queue
		}
		all[name] = gateway.Rate{Every: b.Rate.every(), Burst: b.Rate.burst(), Queue: queue}
	}
	return all
}
