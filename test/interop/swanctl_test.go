package interop

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSwanctlConf(t *testing.T) {
	c := Config{
		Connections: []Connection{{
			Name: "gw", LocalAddrs: []string{"192.0.2.1", "2001:db8::1"}, Proposals: "aes256gcm16-prfsha512-x25519", Encap: true,
			Local:    Auth{Auth: "pubkey", ID: `C=FI, CN=a "b"`, Certs: []string{"a.pem"}},
			Remote:   Auth{Auth: "pubkey", Extra: []string{"revocation = relaxed"}},
			Children: []Child{{Name: "net", LocalTS: []string{"10.1.0.0/24"}, Extra: []string{"rekey_time = 5s"}}},
			Extra:    []string{"mobike = no"},
		}},
		PSKs: []PSK{{IDs: []string{"a", "b"}, Secret: `a\b"c`}},
	}
	want := `connections {
  gw {
    version = 2
    local_addrs = 192.0.2.1,2001:db8::1
    proposals = aes256gcm16-prfsha512-x25519
    encap = yes
    mobike = no
    local {
      auth = pubkey
      id = "C=FI, CN=a \"b\""
      certs = a.pem
    }
    remote {
      auth = pubkey
      revocation = relaxed
    }
    children {
      net {
        local_ts = 10.1.0.0/24
        rekey_time = 5s
      }
    }
  }
}
secrets {
  ike-0 {
    id-0 = "a"
    id-1 = "b"
    secret = "a\\b\"c"
  }
}
`
	if diff := cmp.Diff(want, c.swanctlConf()); diff != "" {
		t.Error(diff)
	}
}

func TestParseSAs(t *testing.T) {
	text := `list-sa event {
  gw {
    uniqueid = 1
    version = 2
    state = ESTABLISHED
    local-id = C=FI, O=netsecvpn, CN=a
    initiator = yes
    encr-alg = AES_GCM_16
    encr-keysize = 256
    child-sas {
      net-1 {
        name = net
        uniqueid = 1
        state = REKEYED
      }
      net-2 {
        name = net
        uniqueid = 2
        state = INSTALLED
        spi-in = 62719b6e
        packets-in = 7
        local-ts = [
          10.1.0.0/24
          fd00:1::/64
        ]
        remote-ts = [
        ]
      }
    }
  }
}
list-sa event {
  gw {
    uniqueid = 3
    state = CONNECTING
    child-sas {
    }
  }
}
list-sas reply {
}
`
	sas, err := parseSAs(text)
	if err != nil {
		t.Fatal(err)
	}
	young := ChildSA{Name: "net", UniqueID: 2, State: "INSTALLED", SPIIn: "62719b6e", PacketsIn: 7, LocalTS: []string{"10.1.0.0/24", "fd00:1::/64"}}
	want := []IKESA{
		{
			Name: "gw", UniqueID: 1, Version: 2, State: "ESTABLISHED", LocalID: "C=FI, O=netsecvpn, CN=a", Initiator: true, Encryption: "AES_GCM_16-256",
			Children: []ChildSA{{Name: "net", UniqueID: 1, State: "REKEYED"}, young},
		},
		{Name: "gw", UniqueID: 3, State: "CONNECTING"},
	}
	if diff := cmp.Diff(want, sas); diff != "" {
		t.Error(diff)
	}
	if c, ok := sas[0].Child("net"); !ok || c.UniqueID != 2 {
		t.Errorf("child %+v, %v", c, ok)
	}
	if c, ok := sas[1].Child("net"); ok {
		t.Errorf("child %+v", c)
	}
	for _, broken := range []string{text[:strings.LastIndex(text, "}")], "}\n", "noise\n", "a {\n b = [\n"} {
		if _, err := parseSAs(broken); err == nil {
			t.Errorf("accepted %q", broken)
		}
	}
}
