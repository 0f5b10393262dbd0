package main

import (
	"io"
	"net/http"

	"github.com/muster-pki/muster/cmd/muster/devicefile"
	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/gateway/admin/console"
)

// withConsole puts the console before the admin API. People stay signed in when the configuration changes.
func (p *process) withConsole(cfg *Config, access *admin.Access, api http.Handler) (http.Handler, error) {
	if p.signedIn == nil {
		sessions, err := console.NewSessions(p.clock)
		if err != nil {
			return nil, err
		}
		p.signedIn = sessions
	}
	pages, err := console.New(console.Config{
		API: p.admin, Access: access, Settings: cfg.Admin.Console, Dir: cfg.dir, Sessions: p.signedIn, Account: accountInParts, ReadDevices: readDevices,
		Plain: words.Plain, Version: version(), Clock: p.clock, Log: p.log,
	})
	if err != nil {
		return nil, cfg.fault(at("admin"), "%v", err)
	}
	return pages.Handler(api), nil
}

// maxUploaded is how many devices a file may have that is sent by a browser. The gateway has them all in memory, some 900 bytes each: 1,000,000 names in 7 MB
// of CSV were 850 MB.
const maxUploaded = 50_000

// readDevices reads a file of devices for the console, as `muster device import` does.
func readDevices(name string, in io.Reader) ([]admin.Device, func(*admin.ImportError) error, error) {
	entries, err := devicefile.ReadFew(name, in, maxUploaded)
	if err != nil {
		return nil, nil, err
	}
	all := make([]admin.Device, len(entries))
	for i, e := range entries {
		all[i] = e.Wire()
	}
	return all, func(refused *admin.ImportError) error { return devicefile.Refused(name, entries, refused) }, nil
}

// pipelineDrawings draws the endpoints that run.
func (p *process) pipelineDrawings() []admin.PipelineDrawing {
	rt := p.runtime.Load()
	if rt == nil {
		return nil
	}
	var all []admin.PipelineDrawing
	for _, name := range byName(rt.gateway.Endpoints) {
		if rt.cfg.Endpoints[name] == nil {
			continue
		}
		v := rt.cfg.view(rt.gateway.Endpoints[name])
		all = append(all, admin.PipelineDrawing{Endpoint: name, Protocol: v.Protocol, Drawing: draw(v, plainWidth, false)})
	}
	return all
}
