package authz

import (
	"fmt"

	"github.com/muster-pki/muster/gateway"
)

// Describe is gateway.Describer.
func (s *Password) Describe() gateway.Description {
	names := map[string]bool{}
	for name := range s.users {
		names[name] = true
	}
	for name := range s.digests {
		names[name] = true
	}
	from := when(s.config.File != "", " ("+s.config.File+")")
	by := "HTTP Basic"
	if len(s.digests) > 0 {
		by += " or Digest"
	}
	return gateway.Description{
		Checks: lines(
			fmt.Sprintf("user name and password, by %s: %s%s", by, counted(len(names), "user"), from),
			when(s.device, "the user name is the device's name"),
			s.limit.words("wrong passwords"),
		),
		Refuses: []gateway.Reason{gateway.Unauthenticated, gateway.NotAuthorized, gateway.Busy},
	}
}

// Describe is gateway.Describer.
func (s *Challenge) Describe() gateway.Description {
	var taken []string
	if n := len(s.generated) + len(s.typed); n > 0 {
		taken = append(taken, fmt.Sprintf("%s of the configuration%s", counted(n, "secret"), when(s.config.File != "", " ("+s.config.File+")")))
	}
	if s.issued != nil {
		taken = append(taken, "one issued here (muster challenge new)")
	}
	if s.service != nil {
		taken = append(taken, "what the webhook "+s.service.Host()+" allows")
	}
	d := gateway.Description{
		Checks: lines(
			"a challenge: "+some(taken, "or"),
			when(s.basic, "the password of HTTP Basic counts as one"),
			when(len(s.typed) > 0 || s.service != nil, s.limit.words("wrong challenges")),
		),
		Refuses: []gateway.Reason{gateway.Unauthenticated, gateway.NotAuthorized, gateway.Busy},
	}
	if s.service != nil {
		d.Refuses = append(d.Refuses, gateway.BadTemplate)
	}
	if s.issued != nil {
		d.Uses = "one use of an issued challenge"
	}
	return d
}

// Describe is gateway.Describer.
func (s *DevicePassword) Describe() gateway.Description {
	d := gateway.Description{
		Checks: lines(
			"the password in the device's entry in the inventory, by HTTP Basic or as a challenge",
			"good for "+s.uses.words("use"),
			"the device: the user name, or "+some(placeNames(s.by), "else")+when(s.kind != "", " (kind "+s.kind+")"),
			s.limit.words("wrong passwords"),
		),
		Refuses: []gateway.Reason{gateway.Unauthenticated, gateway.NotAuthorized, gateway.Busy},
	}
	if s.uses != Unlimited {
		d.Uses = "one use of the device's password"
	}
	return d
}

// Describe is gateway.Describer.
func (s *SharedSecret) Describe() gateway.Description {
	var taken []string
	if n := len(s.fixed); n > 0 {
		taken = append(taken, counted(n, "secret")+" of the configuration")
	}
	if s.secrets != nil {
		taken = append(taken, "one of the devices' (muster secret add)")
	}
	if s.devices != nil {
		taken = append(taken, "that of the device's entry in the inventory")
	}
	owned := 0
	for _, one := range s.fixed {
		if one.device != "" {
			owned++
		}
	}
	return gateway.Description{
		Checks: lines(
			"the message's MAC, by a shared secret: "+some(taken, "or"),
			when(owned > 0, counted(owned, "secret")+" of the configuration name a device"),
		),
		Refuses: []gateway.Reason{gateway.Unauthenticated, gateway.NotAuthorized},
	}
}
