package v2

// reconfigure goes on with a new configuration of the connection, whose
// authentication is as before. What is negotiated stays until it is rekeyed;
// CHILD SAs of tunnels that are gone keep their old configuration until
// DeleteChild.
func (m *Machine) reconfigure(c *Connection) {
	if m.state != Established || c.Name != m.conn.Name {
		return
	}
	m.conn = c
	for _, sa := range m.children {
		for _, conf := range c.Children {
			if conf.Name == sa.conf.Name {
				sa.conf = conf
			}
		}
	}
}
