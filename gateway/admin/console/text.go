package console

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
	"unicode"
)

//go:embed templates/*.html
var templateFiles embed.FS

// assetFiles are served as they are. htmx.min.js is dist/htmx.min.js of the npm package htmx.org 2.0.11, by its licence (BSD-0) beside
// it; a test holds its checksum.
//
//go:embed assets/console.css assets/htmx.min.js assets/icon.svg
var assetFiles embed.FS

// htmxSHA256 is the checksum of the script.
const htmxSHA256 = "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"

var assetKinds = map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

// assetURL is where a file of assets is: another version of it is elsewhere, so that browsers may keep it.
func assetURL(name string) string {
	data, err := assetFiles.ReadFile("assets/" + name)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(data)
	return Path + "assets/" + name + "?" + hex.EncodeToString(sum[:6])
}

// asset serves one.
func (v *visit) asset(name string) error {
	data, err := fs.ReadFile(assetFiles, "assets/"+name)
	kind := assetKinds[path.Ext(name)]
	if err != nil || kind == "" {
		return refuse(http.StatusNotFound, "there is no such page")
	}
	h := v.w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", "private, max-age=86400")
	h.Del("Vary")
	_, _ = v.w.Write(data)
	return nil
}

// template is a page within its frame.
func (k *Console) template(name string) *template.Template { return k.templates[name] }

// parse makes the templates of all pages.
func (k *Console) parse() (map[string]*template.Template, error) {
	functions := template.FuncMap{
		"plain": k.Plain,
		"lines": func(s string) string { // of a text of several lines, each fit to be shown
			all := strings.Split(strings.TrimRight(s, "\n"), "\n")
			for i := range all {
				all[i] = k.Plain(strings.ReplaceAll(all[i], "\t", "    "))
			}
			return strings.Join(all, "\n")
		},
		"moment": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") },
		"day":    func(t time.Time) string { return t.UTC().Format(time.DateOnly) },
		"stamp":  func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"short":  short,
		"tone":   tone,
		"add":    func(a, b int) int { return a + b },
		"asset":  assetURL,
	}
	frame, err := template.New("frame.html").Funcs(functions).ParseFS(templateFiles, "templates/frame.html", "templates/parts.html")
	if err != nil {
		return nil, err
	}
	files, err := fs.Glob(templateFiles, "templates/*.html")
	if err != nil {
		return nil, err
	}
	all := map[string]*template.Template{}
	for _, file := range files {
		name := strings.TrimSuffix(path.Base(file), ".html")
		if name == "frame" || name == "parts" {
			continue
		}
		own, err := frame.Clone()
		if err == nil {
			own, err = own.ParseFS(templateFiles, file)
		}
		if err != nil {
			return nil, fmt.Errorf("console: %s: %w", file, err)
		}
		all[name] = own
	}
	return all, nil
}

// visible has what a page must not contain stand in it as an escape: controls, marks that turn the direction of writing, and the like.
// Templates show what strangers sent by `plain`; this is for what should slip past.
func visible(page string) string {
	odd := func(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsPrint(r) }
	if strings.IndexFunc(page, odd) < 0 {
		return page
	}
	var b strings.Builder
	for _, r := range page {
		if odd(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// short is the end of a transaction's ID, which `muster explain` takes too.
func short(id string) string {
	if len(id) <= 8 {
		return id
	}
	return "…" + id[len(id)-8:]
}

// tone is the class of a state, verdict or standing: good, bad, waits, or none.
func tone(word string) string {
	switch word {
	case "issued", "allow", "valid", "good", "ready", "up", "closed":
		return "good"
	case "refused", "denied", "failed", "rejected", "deny", "revoked", "disabled", "down", "cannot-answer", "expired":
		return "bad"
	case "held", "hold", "approved", "issuing", "queued", "unknown", "waiting", "stuck", "unconfirmed", "forwarded", "not yet":
		return "waits"
	}
	return "plain"
}
