package cmp

import (
	"fmt"

	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Type is a kind of endpoint; "" is none in particular.
type Type string

// Type3GPP is for base stations (3GPP TS 33.310 clause 9): every message is signed, every certificate is confirmed, SHA-1 is
// never taken, the root goes into caPubs and messages without a true time are accepted, unless the section says otherwise of
// these two. cmd/muster holds the endpoint's pipelines against it.
const Type3GPP Type = "3gpp"

// typeOf is what stands under `type` in a section that is not decoded yet.
func typeOf(section *yaml.Node) Type {
	if section.Kind != yaml.MappingNode {
		return ""
	}
	for i := 0; i+1 < len(section.Content); i += 2 {
		if section.Content[i].Value == "type" {
			return Type(section.Content[i+1].Value)
		}
	}
	return ""
}

// typed fills in what the type says where the section says nothing.
func (c Config) typed() Config {
	if c.Type != Type3GPP {
		return c
	}
	if c.Confirm == "" {
		c.Confirm = ConfirmExplicit
	}
	if c.ClockSkew == (Skew{}) {
		c.ClockSkew.Any = true
	}
	return c
}

// checkType refuses settings that the type rules out.
func (c Config) checkType() error {
	switch c.Type {
	case "":
		return nil
	case Type3GPP:
	default:
		return fmt.Errorf("type: %q is none: 3gpp, or leave it out%s", c.Type, strictyaml.Suggest(string(c.Type), []string{string(Type3GPP)}))
	}
	switch {
	case c.Confirm == ConfirmOnRequest:
		return fmt.Errorf("confirm: 3GPP TS 33.310 has every certificate confirmed: leave it out, or `type: 3gpp`")
	case c.allowSHA1():
		return fmt.Errorf("legacy: 3GPP TS 33.310 forbids SHA-1: leave it out, or `type: 3gpp`")
	}
	return nil
}

// onlySigned refuses a MAC where the endpoint's type has none (3GPP TS 33.310 clause 9), whoever's it is: no secret is
// looked for.
func (c Config) onlySigned(isMAC bool) *refusal {
	if !isMAC || c.Type != Type3GPP {
		return nil
	}
	return refused(gateway.WrongProtection, "this endpoint takes signed messages only: sign with the vendor's certificate, or the operator's", nil)
}
