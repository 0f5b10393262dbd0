import java.security.PrivateKey;
import java.security.interfaces.ECKey;
import java.util.ArrayList;
import java.util.List;
import org.bouncycastle.asn1.ASN1ObjectIdentifier;
import org.bouncycastle.asn1.ASN1Sequence;
import org.bouncycastle.asn1.cms.CMSObjectIdentifiers;
import org.bouncycastle.asn1.cms.ContentInfo;
import org.bouncycastle.asn1.cms.SignedData;
import org.bouncycastle.asn1.crmf.EncryptedKey;
import org.bouncycastle.asn1.crmf.EncryptedValue;
import org.bouncycastle.asn1.pkcs.PrivateKeyInfo;
import org.bouncycastle.asn1.x509.ExtendedKeyUsage;
import org.bouncycastle.asn1.x509.KeyPurposeId;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cert.crmf.CertificateResponse;
import org.bouncycastle.cert.crmf.EncryptedValueParser;
import org.bouncycastle.cert.crmf.jcajce.JceAsymmetricValueDecryptorGenerator;
import org.bouncycastle.cms.CMSEnvelopedData;
import org.bouncycastle.cms.CMSSignedData;
import org.bouncycastle.cms.Recipient;
import org.bouncycastle.cms.RecipientInformation;
import org.bouncycastle.cms.SignerInformation;
import org.bouncycastle.cms.jcajce.JcaSimpleSignerInfoVerifierBuilder;
import org.bouncycastle.cms.jcajce.JceKeyAgreeEnvelopedRecipient;
import org.bouncycastle.cms.jcajce.JceKeyTransEnvelopedRecipient;
import org.bouncycastle.cms.jcajce.JcePasswordEnvelopedRecipient;
import org.bouncycastle.openssl.jcajce.JcaPEMKeyConverter;

/** What the gateway has encrypted to a device: a key that it made (RFC 9810 section 5.3.4, RFC 9483 section 4.1.6), or a certificate. */
final class Sealed {
    private static final ASN1ObjectIdentifier KEY_PACKAGE = new ASN1ObjectIdentifier("2.16.840.1.101.2.1.2.78.5");
    private static final KeyPurposeId CM_KGA = KeyPurposeId.getInstance(new ASN1ObjectIdentifier("1.3.6.1.5.5.7.3.32"));

    static Recipient by(PrivateKey key) {
        return key instanceof ECKey ? new JceKeyAgreeEnvelopedRecipient(key).setProvider("BC") : new JceKeyTransEnvelopedRecipient(key).setProvider("BC");
    }

    /** A certificate that only the holder of the key can read: in EnvelopedData under version 3, in EncryptedValue under version 2. */
    static X509CertificateHolder certificate(CertificateResponse response, PrivateKey key) throws Exception {
        EncryptedKey sealed = response.toASN1Structure().getCertifiedKeyPair().getCertOrEncCert().getEncryptedCert();
        if (sealed.isEncryptedValue()) {
            Say.it("encrCert", "EncryptedValue");
            return new EncryptedValueParser(EncryptedValue.getInstance(sealed.getValue()))
                .readCertificateHolder(new JceAsymmetricValueDecryptorGenerator(key).setProvider("BC"));
        }
        CMSEnvelopedData data = response.getEncryptedCertificate();
        Say.it("encrCert", recipient(data).getClass().getSimpleName());
        Say.it("cipher", data.getEncryptionAlgOID());
        return new X509CertificateHolder(response.getCertificate(by(key)).getX509v3PKCert());
    }

    private static RecipientInformation recipient(CMSEnvelopedData data) {
        Say.must(data.getRecipientInfos().size() == 1, "not one recipient");
        return data.getRecipientInfos().iterator().next();
    }

    /** The private key in EnvelopedData(SignedData(AsymmetricKeyPackage)). */
    static PrivateKey key(EncryptedKey sealed, Client client) throws Exception {
        Say.must(!sealed.isEncryptedValue(), "EncryptedValue");
        CMSEnvelopedData enveloped = new CMSEnvelopedData(new ContentInfo(CMSObjectIdentifiers.envelopedData, sealed.getValue()));
        RecipientInformation recipient = recipient(enveloped);
        Say.it("recipient", recipient.getClass().getSimpleName());
        Say.it("cipher", enveloped.getEncryptionAlgOID());
        Recipient by = client.signs() ? by(client.key) : new JcePasswordEnvelopedRecipient(client.secret).setProvider("BC");
        byte[] content = recipient.getContent(by);
        Say.must(recipient.getContentType().equals(CMSObjectIdentifiers.signedData), "what is enveloped is not SignedData");
        CMSSignedData signed = new CMSSignedData(new ContentInfo(CMSObjectIdentifiers.signedData, SignedData.getInstance(content)));
        Say.must(signed.getSignerInfos().size() == 1, "not one signer");
        SignerInformation signer = signed.getSignerInfos().iterator().next();
        @SuppressWarnings("unchecked")
        List<X509CertificateHolder> found = new ArrayList<>(signed.getCertificates().getMatches(signer.getSID()));
        Say.must(found.size() == 1, "the signer's certificate is not there");
        Say.must(signer.verify(new JcaSimpleSignerInfoVerifierBuilder().setProvider("BC").build(found.get(0))), "the signature over the key is wrong");
        List<X509CertificateHolder> known = new ArrayList<>(client.received);
        known.addAll(signed.getCertificates().getMatches(null));
        Files.chain(found.get(0), known, client.roots);
        ExtendedKeyUsage purposes = ExtendedKeyUsage.fromExtensions(found.get(0).getExtensions());
        Say.it("cmKGA", purposes != null && purposes.hasKeyPurposeId(CM_KGA));
        Say.must(signed.getSignedContent().getContentType().equals(KEY_PACKAGE), "what is signed is not an AsymmetricKeyPackage");
        ASN1Sequence keys = ASN1Sequence.getInstance((byte[]) signed.getSignedContent().getContent());
        Say.must(keys.size() == 1, "not one key");
        return new JcaPEMKeyConverter().setProvider("BC").getPrivateKey(PrivateKeyInfo.getInstance(keys.getObjectAt(0)));
    }
}
